#include "server/chat_response.h"

#include "base/utf8.h"
#include "server/sse.h"

#include <algorithm>
#include <cmath>

namespace nibble::server {
namespace {

constexpr double kMinusInfinityLogprob = -9999.0;

OrderedJson token_json(int32_t token, float logprob, const ChatText& text) {
  const std::string bytes = text.token_bytes(token);
  OrderedJson json;
  json["token"] = replace_invalid_utf8(bytes);
  json["logprob"] = std::isfinite(logprob) ? static_cast<double>(logprob) : kMinusInfinityLogprob;
  OrderedJson& list = json["bytes"] = OrderedJson::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return json;
}

// The user's stop string or stop token; null when the model ended by itself or by length.
OrderedJson stop_reason_json(const runtime::Finish& finish, const std::vector<int32_t>& user_stop) {
  if (finish.reason != runtime::FinishReason::stop) return nullptr;
  if (!finish.stop_string.empty()) return finish.stop_string;
  const bool is_users =
      std::find(user_stop.begin(), user_stop.end(), finish.stop_token) != user_stop.end();
  return is_users ? OrderedJson(finish.stop_token) : OrderedJson();
}

OrderedJson head_json(const ChatAnswer& answer, const char* object) {
  OrderedJson json;
  json["id"] = answer.id;
  json["object"] = object;
  json["created"] = answer.created;
  json["model"] = answer.model;
  json["system_fingerprint"] = answer.system_fingerprint;
  return json;
}

OrderedJson choice_json(const ChatAnswer& answer, const ChatChoice& choice, const ChatText& text) {
  OrderedJson message;
  message["role"] = "assistant";
  message["content"] = choice.ended_in_reasoning ? OrderedJson() : OrderedJson(choice.content);
  if (answer.include_reasoning && !choice.reasoning.empty()) {
    message["reasoning"] = choice.reasoning;
    message["reasoning_content"] = choice.reasoning;
  }
  message["refusal"] = nullptr;
  message["annotations"] = OrderedJson::array();
  OrderedJson json;
  json["index"] = choice.index;
  json["message"] = std::move(message);
  json["logprobs"] = answer.wants_logprobs ? logprobs_json(choice.logprobs, text) : OrderedJson();
  json["finish_reason"] = finish_reason_text(choice.finish.reason);
  json["stop_reason"] = stop_reason_json(choice.finish, answer.user_stop_tokens);
  return json;
}

}  // namespace

const char* finish_reason_text(runtime::FinishReason reason) {
  switch (reason) {
    case runtime::FinishReason::stop:
      return "stop";
    case runtime::FinishReason::length:
      return "length";
    case runtime::FinishReason::cancelled:
      return "abort";
    case runtime::FinishReason::error:
      return "error";
  }
  return "error";
}

OrderedJson usage_json(const UsageTotals& usage) {
  OrderedJson json;
  json["prompt_tokens"] = usage.prompt_tokens;
  json["completion_tokens"] = usage.completion_tokens;
  json["total_tokens"] = usage.prompt_tokens + usage.completion_tokens;
  json["prompt_tokens_details"]["cached_tokens"] = usage.cached_tokens;
  OrderedJson& details = json["completion_tokens_details"];
  details["reasoning_tokens"] = usage.reasoning_tokens;
  details["accepted_prediction_tokens"] = 0;
  details["rejected_prediction_tokens"] = 0;
  return json;
}

OrderedJson logprobs_json(std::span<const runtime::TokenLogprob> logprobs, const ChatText& text) {
  OrderedJson content = OrderedJson::array();
  for (const runtime::TokenLogprob& entry : logprobs) {
    OrderedJson token = token_json(entry.token, entry.logprob, text);
    OrderedJson& top = token["top_logprobs"] = OrderedJson::array();
    for (const auto& [id, logprob] : entry.top) top.push_back(token_json(id, logprob, text));
    content.push_back(std::move(token));
  }
  OrderedJson json;
  json["content"] = std::move(content);
  return json;
}

OrderedJson role_delta() {
  OrderedJson delta;
  delta["role"] = "assistant";
  delta["content"] = "";
  return delta;
}

std::string chat_chunk(const ChatAnswer& answer, ChunkParts parts) {
  OrderedJson choice;
  choice["index"] = parts.choice;
  choice["delta"] = std::move(parts.delta);
  choice["logprobs"] = std::move(parts.logprobs);
  choice["finish_reason"] = nullptr;
  if (parts.finish != nullptr) {
    choice["finish_reason"] = finish_reason_text(parts.finish->reason);
    choice["stop_reason"] = stop_reason_json(*parts.finish, answer.user_stop_tokens);
  }
  OrderedJson json = head_json(answer, "chat.completion.chunk");
  OrderedJson& choices = json["choices"] = OrderedJson::array();
  choices.push_back(std::move(choice));
  if (parts.usage != nullptr) json["usage"] = usage_json(*parts.usage);
  return sse_event(dump_json(json));
}

std::string usage_chunk(const ChatAnswer& answer, const UsageTotals& usage) {
  OrderedJson json = head_json(answer, "chat.completion.chunk");
  json["choices"] = OrderedJson::array();
  json["usage"] = usage_json(usage);
  return sse_event(dump_json(json));
}

std::string chat_completion(const ChatAnswer& answer, std::span<const ChatChoice> choices,
                            const UsageTotals& usage, const ChatText& text) {
  OrderedJson json = head_json(answer, "chat.completion");
  OrderedJson& list = json["choices"] = OrderedJson::array();
  for (const ChatChoice& choice : choices) list.push_back(choice_json(answer, choice, text));
  json["usage"] = usage_json(usage);
  json["service_tier"] = nullptr;
  return dump_json(json);
}

}  // namespace nibble::server
