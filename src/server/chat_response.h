// POST /v1/chat/completions, answer side: the JSON of whole answers and of stream chunks (spec
// serving.md 5.7, 5.8).
//
// Pure functions from pieces to text. Which chunk comes when is chat_reply.cc's business.
#pragma once

#include "runtime/request.h"
#include "server/chat_model.h"
#include "server/generation_run.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::server {

/// What all chunks of one answer share, and what of the request shapes them.
struct ChatAnswer {
  std::string id;  // "chatcmpl-..."
  int64_t created = 0;  // Unix seconds
  std::string model;
  std::string system_fingerprint;
  bool wants_logprobs = false;
  bool include_reasoning = true;
  bool include_usage = false;
  bool continuous_usage = false;
  int32_t top_logprobs = -1;
  std::vector<int32_t> user_stop_tokens;  // reported as stop_reason; the model's own end is not
};

/// One finished choice of a whole answer.
struct ChatChoice {
  int32_t index = 0;
  std::string reasoning;
  std::string content;
  bool ended_in_reasoning = false;  // no answer began: content is null
  std::vector<runtime::TokenLogprob> logprobs;
  runtime::Finish finish;
};

/// "stop", "length", "abort" (server drain) or "error".
const char* finish_reason_text(runtime::FinishReason reason);

OrderedJson usage_json(const UsageTotals& usage);

/// {"content":[...]}; -inf is written as -9999.0.
OrderedJson logprobs_json(std::span<const runtime::TokenLogprob> logprobs, const ChatText& text);

/// {"role":"assistant","content":""} for the first chunk of a choice.
OrderedJson role_delta();

/// One stream event (framed) for one choice. `finish` null: not the last one. `usage` null: none.
struct ChunkParts {
  int32_t choice = 0;
  OrderedJson delta = OrderedJson::object();
  OrderedJson logprobs;  // null: none
  const runtime::Finish* finish = nullptr;
  const UsageTotals* usage = nullptr;
};
std::string chat_chunk(const ChatAnswer& answer, ChunkParts parts);

/// The event with usage and no choices.
std::string usage_chunk(const ChatAnswer& answer, const UsageTotals& usage);

/// The whole answer of a request without streaming.
std::string chat_completion(const ChatAnswer& answer, std::span<const ChatChoice> choices,
                            const UsageTotals& usage, const ChatText& text);

}  // namespace nibble::server
