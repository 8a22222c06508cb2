// Ranges of spec serving.md 5.1 as far as the engine depends on them.
#include "runtime/request_check.h"

#include "device/sample_plan.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

namespace nibble::runtime {

namespace {

Error invalid(std::string message) {
  return Error{ErrorCode::invalid_argument, std::move(message)};
}

Result<void> check_token(const char* field, int32_t token, int32_t vocab_size) {
  if (token >= 0 && token < vocab_size) return {};
  return invalid(fmt::format("{}: token id {}, expected 0 to {}", field, token, vocab_size - 1));
}

Result<void> check_range(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return {};
  return invalid(fmt::format("{}: {}, expected {} to {}", field, value, low, high));
}

Result<void> check_lengths(const Request& request, const EngineLimits& limits) {
  if (request.prompt_tokens.empty()) return invalid("prompt_tokens: empty, expected at least one");
  if (request.prompt_tokens.size() >= static_cast<size_t>(limits.max_model_len)) {
    return invalid(fmt::format(
        "prompt_tokens: {} tokens, but the context holds {} for prompt and answer together",
        request.prompt_tokens.size(), limits.max_model_len));
  }
  if (request.max_tokens < 0) {
    return invalid(fmt::format("max_tokens: {}, expected 0 or more", request.max_tokens));
  }
  if (request.min_tokens < 0 ||
      (request.max_tokens > 0 && request.min_tokens > request.max_tokens)) {
    return invalid(fmt::format("min_tokens: {}, expected 0 to max_tokens ({})", request.min_tokens,
                               request.max_tokens));
  }
  return {};
}

Result<void> check_sampling(const SamplingParams& p) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  NIBBLE_RETURN_IF_ERROR(check_range("temperature", p.temperature, 0.0f, kLargest));
  NIBBLE_RETURN_IF_ERROR(check_range("top_p", p.top_p, std::numeric_limits<float>::min(), 1.0f));
  NIBBLE_RETURN_IF_ERROR(check_range("min_p", p.min_p, 0.0f, 1.0f));
  NIBBLE_RETURN_IF_ERROR(check_range("repetition_penalty", p.repetition_penalty,
                                     std::numeric_limits<float>::min(), kLargest));
  NIBBLE_RETURN_IF_ERROR(check_range("presence_penalty", p.presence_penalty, -kLargest, kLargest));
  NIBBLE_RETURN_IF_ERROR(
      check_range("frequency_penalty", p.frequency_penalty, -kLargest, kLargest));
  if (p.top_logprobs < -1 || p.top_logprobs > device::kMaxTopLogprobs) {
    return invalid(fmt::format("top_logprobs: {}, expected -1 to {}", p.top_logprobs,
                               device::kMaxTopLogprobs));
  }
  return {};
}

}  // namespace

Result<void> check_request(const Request& request, const EngineLimits& limits, int32_t vocab_size) {
  NIBBLE_RETURN_IF_ERROR(check_lengths(request, limits));
  NIBBLE_RETURN_IF_ERROR(check_sampling(request.sampling));
  for (const int32_t token : request.prompt_tokens) {
    NIBBLE_RETURN_IF_ERROR(check_token("prompt_tokens", token, vocab_size));
  }
  for (const int32_t token : request.stop_token_ids) {
    NIBBLE_RETURN_IF_ERROR(check_token("stop_token_ids", token, vocab_size));
  }
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    NIBBLE_RETURN_IF_ERROR(check_token("logit_bias", token, vocab_size));
    if (!std::isfinite(bias)) return invalid("logit_bias: a bias is not finite");
  }
  for (const std::string& stop : request.stop) {
    if (stop.empty()) return invalid("stop: an empty string");
  }
  return {};
}

}  // namespace nibble::runtime
