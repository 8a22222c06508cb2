// SamplePlan: how each wanted logits row becomes a token, planned by runtime/, executed by the
// device.
//
// Fixed-address buffers like StepPlan. Order of operations: spec serving.md 11 (penalties, bias,
// temperature, min-p, top-k, top-p, draw). Greedy is temperature 0. Ties go to the lowest token id.
#pragma once

#include <cstdint>

namespace nibble::device {

inline constexpr int kMaxTopLogprobs = 20;

/// A token this sequence has seen, for the penalties.
struct TokenCount {
  int32_t token;
  int32_t in_prompt;  // 1 if it occurs in the prompt
  int32_t output_count;  // occurrences among generated tokens
};

struct LogitBias {
  int32_t token;
  float bias;  // -infinity: this token is never chosen (stop tokens before min_tokens)
};

struct SampleRow {
  int32_t logits_row =
      0;  // row of the step's logits (0 .. num_logit_rows - 1); forks may share one
  float temperature = 0.0f;
  float top_p = 1.0f;
  float min_p = 0.0f;
  int32_t top_k = 0;  // 0: off
  float repetition_penalty = 1.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  const TokenCount* counts = nullptr;
  int32_t num_counts = 0;
  const LogitBias* bias = nullptr;
  int32_t num_bias = 0;
  const uint64_t* allowed = nullptr;  // bitset over the vocabulary, or null
  int32_t forced_token = -1;  // >= 0: this token, whatever the logits say
  uint64_t seed = 0;  // the draw uses random_unit(seed, draw_index)
  uint64_t draw_index = 0;
  int32_t top_logprobs = 0;  // 0 .. kMaxTopLogprobs; -1: neither logprob nor rank is computed
};

struct SamplePlan {
  int32_t num_rows = 0;
  const SampleRow* rows = nullptr;
  int32_t vocab_limit = 0;  // ids >= vocab_limit have no token and are never chosen
};

/// Logprobs are of the raw logits (before penalties and temperature).
struct SampleResult {
  int32_t token = -1;
  float logprob = 0.0f;
  int32_t rank = 0;  // number of tokens with a larger raw logit
  int32_t num_top = 0;
  int32_t top_tokens[kMaxTopLogprobs] = {};
  float top_logprobs[kMaxTopLogprobs] = {};
  bool finite = true;  // false: a logit was NaN or infinite; token is -1 (also if none is allowed)
};

}  // namespace nibble::device
