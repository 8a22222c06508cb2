// What a client asks of the engine and what it hears back: the vocabulary between server, cli, eval
// and engine.
//
// Every accepted request gets zero or more deltas and then exactly one terminal event
// (CONTRACT.md 1.1).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace nibble::runtime {

using RequestId = uint64_t;

/// Names and ranges: spec serving.md 5.1 and 11. Defaults are neutral; the front end fills in
/// generation_config.
struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  float top_p = 1.0f;
  int32_t top_k = 0;  // 0: off
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  uint64_t seed = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  int32_t top_logprobs = -1;  // -1: no logprobs; 0: of the chosen token only
};

struct Request {
  std::vector<int32_t> prompt_tokens;  // at least one
  SamplingParams sampling;
  int32_t max_tokens = 0;  // generated tokens at most; 0: up to the context limit
  int32_t min_tokens = 0;  // no stop token before
  std::vector<std::string> stop;  // matched in the decoded text; the match is not sent
  bool include_stop_in_output = false;
  std::vector<int32_t>
      stop_token_ids;  // end of generation (model's eos ids included by the front end)
  bool skip_special_tokens = true;
};

enum class FinishReason { stop, length, cancelled, error };

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0.0f;
  std::vector<std::pair<int32_t, float>> top;  // falling probability
};

/// The tokens of one step and the text that became certain (whole UTF-8 characters; text that may
/// be part of a stop string is held back, so text can lag behind the tokens or be empty). The stop
/// token that ends a request is among the tokens, without text unless include_stop_in_output.
struct Delta {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<TokenLogprob> logprobs;  // as many as tokens when asked for
};

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t cached_tokens = 0;
  double queue_seconds = 0;  // submit to first scheduling
  double prefill_seconds = 0;  // first scheduling to first token
  double decode_seconds = 0;  // first token to last
};

struct Finish {
  FinishReason reason = FinishReason::stop;
  std::string stop_string;  // the stop string that ended it, if one did
  int32_t stop_token = -1;  // the stop token that ended it, if one did
  std::string error;  // reason error
  Usage usage;
};

/// Receives a request's events on the engine thread: must not block, throw or call the engine.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void on_delta(RequestId id, const Delta& delta) = 0;
  virtual void on_finish(RequestId id, const Finish& finish) = 0;
};

}  // namespace nibble::runtime
