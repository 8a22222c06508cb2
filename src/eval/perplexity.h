// Perplexity: negative log-likelihoods of token sequences, each run from an empty state.
//
// Plain sums over all scored tokens in double, no term dropped (spec eval.md 2). The executor must
// have room for the logits of every row of a step; sequences are cut into steps on the 64-token
// grid, which changes no bit of the result.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "runtime/model_executor.h"

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace nibble::eval {

/// Sums over scored tokens; two of them add.
struct NllSum {
  int64_t tokens = 0;
  double sum = 0;
  double sum_of_squares = 0;

  void add(double nll) {
    ++tokens;
    sum += nll;
    sum_of_squares += nll * nll;
  }
  double mean() const { return sum / static_cast<double>(tokens); }
  double perplexity() const;
  /// Standard error of the perplexity.
  double perplexity_error() const;
};

class SequenceScorer {
 public:
  /// All are used and outlive the scorer. capacity.logit_rows == capacity.rows.
  SequenceScorer(runtime::ModelExecutor& executor, device::Device& device,
                 const runtime::StepCapacity& capacity, int64_t vocab_size);

  /// Adds the nll of tokens[first_scored ..], each predicted from all before it; first_scored >= 1.
  /// Errors: internal when a logit is not finite.
  Result<void> score(std::span<const int32_t> tokens, int64_t first_scored, NllSum& total);

 private:
  Result<void> run_rows(std::span<const int32_t> tokens, int64_t begin, int64_t end);

  runtime::ModelExecutor& executor_;
  device::Device& device_;
  const runtime::StepCapacity capacity_;
  const int64_t vocab_size_;
  runtime::Step step_;
  std::vector<int32_t> pages_;
  std::vector<float> logits_;
};

}  // namespace nibble::eval
