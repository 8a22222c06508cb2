// The order of the checks on a new token is the contract: errors, stop token or string, length.
#include "runtime/active_request.h"

#include "base/check.h"

#include <algorithm>
#include <string>

namespace nibble::runtime {

namespace {

int32_t total_tokens_at_most(const Request& request, int32_t max_model_len) {
  const auto prompt = static_cast<int64_t>(request.prompt_tokens.size());
  if (request.max_tokens == 0) return max_model_len;
  return static_cast<int32_t>(std::min<int64_t>(max_model_len, prompt + request.max_tokens));
}

double seconds_between(const std::optional<EngineClock::time_point>& from,
                       const std::optional<EngineClock::time_point>& to) {
  if (!from || !to) return 0.0;
  return std::chrono::duration<double>(*to - *from).count();
}

}  // namespace

ActiveRequest::ActiveRequest(Submission arrived, const tokenizer::Tokenizer& tokenizer,
                             int32_t max_model_len)
    : submission(std::move(arrived)), text(tokenizer, submission.request) {
  const Request& request = submission.request;
  sequence.id = submission.id;
  sequence.tokens = request.prompt_tokens;
  sequence.num_prompt_tokens = static_cast<int32_t>(request.prompt_tokens.size());
  sequence.max_total_tokens = total_tokens_at_most(request, max_model_len);
  sequence.sampling =
      SamplingState(request, sequence.max_total_tokens - sequence.num_prompt_tokens);
}

void ActiveRequest::take_token(const device::SampleResult& result, EngineClock::time_point now) {
  if (!result.finite) {
    end(FinishReason::error, "the model's logits for token " +
                                 std::to_string(sequence.num_tokens()) + " are not finite");
    return;
  }
  if (result.token < 0) {
    end(FinishReason::error, "no token is allowed by the request's biases");
    return;
  }
  if (!first_token) first_token = now;
  last_token = now;
  sequence.tokens.push_back(result.token);
  sequence.sampling.append(result.token);
  delta.tokens.push_back(result.token);
  if (submission.request.sampling.top_logprobs >= 0) record_logprob(result);

  std::optional<StopHit> hit = text.feed(result.token, delta.text);
  const bool is_full = sequence.num_tokens() == sequence.max_total_tokens;
  if (!hit && is_full) hit = text.finish(delta.text);
  if (hit) {
    end(FinishReason::stop);
    finish->stop_string = hit->string;
    finish->stop_token = hit->token;
  } else if (is_full) {
    end(FinishReason::length);
  }
}

void ActiveRequest::record_logprob(const device::SampleResult& result) {
  TokenLogprob entry;
  entry.token = result.token;
  entry.logprob = result.logprob;
  entry.top.reserve(static_cast<size_t>(result.num_top));
  for (int32_t i = 0; i < result.num_top; ++i) {
    entry.top.emplace_back(result.top_tokens[i], result.top_logprobs[i]);
  }
  delta.logprobs.push_back(std::move(entry));
}

void ActiveRequest::end(FinishReason reason, std::string error) {
  NIBBLE_CHECK(!finish, "a second terminal event", submission.id);
  finish.emplace();
  finish->reason = reason;
  finish->error = std::move(error);
}

Usage ActiveRequest::usage() const {
  Usage usage;
  usage.prompt_tokens = sequence.num_prompt_tokens;
  usage.completion_tokens = sequence.num_generated_tokens();
  const std::optional<EngineClock::time_point> submitted = submission.submitted;
  usage.queue_seconds = seconds_between(submitted, first_scheduled);
  usage.prefill_seconds = seconds_between(first_scheduled, first_token);
  usage.decode_seconds = seconds_between(first_token, last_token);
  return usage;
}

void ActiveRequest::publish() {
  EventSink& sink = *submission.sink;
  if (!delta.tokens.empty() || !delta.text.empty()) sink.on_delta(submission.id, delta);
  delta.text.clear();
  delta.tokens.clear();
  delta.logprobs.clear();
  if (!finish) return;
  finish->usage = usage();
  sink.on_finish(submission.id, *finish);
}

}  // namespace nibble::runtime
