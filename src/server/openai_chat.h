// POST /v1/chat/completions, request side: JSON body to ChatRequest by the field table (spec
// serving.md 5.1).
//
// Every field of the API has a row in openai_chat.cc; what the server cannot do yet is refused
// there with a clear 400. Parsing knows limits and defaults, never the engine or the tokenizer.
#pragma once

#include "base/json.h"
#include "runtime/request.h"
#include "server/chat_model.h"
#include "server/openai_errors.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace nibble::server {

struct ChatRequest {
  std::string model;  // empty: the first served name
  OrderedJson messages = OrderedJson::array();  // normalised
  OrderedJson tools;  // null: none
  OrderedJson documents;  // null: none
  OrderedJson template_kwargs = OrderedJson::object();  // the request's own
  std::string reasoning_effort;
  bool add_generation_prompt = true;
  bool include_reasoning = true;

  runtime::SamplingParams sampling;  // seed: see below
  std::optional<uint64_t> seed;  // absent: drawn at admission
  int32_t n = 1;
  int32_t max_tokens = 0;  // 0: the rest of the context
  int32_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_in_output = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  bool wants_logprobs = false;

  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
};

struct ChatLimits {
  int32_t max_choices = 128;
  int32_t max_logprobs = 20;
  int32_t vocab_size = 0;
};

/// Parses a body. `defaults` fill what the request leaves open.
std::variant<ChatRequest, ApiError> parse_chat_request(const OrderedJson& body,
                                                       const GenerationDefaults& defaults,
                                                       const ChatLimits& limits);

/// What the chat template gets: messages, tools and the keyword arguments, the request's own over
/// `default_kwargs`.
tokenizer::ChatRequest template_input(const ChatRequest& request,
                                      const OrderedJson& default_kwargs);

}  // namespace nibble::server
