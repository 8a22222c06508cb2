// Perplexity: negative log-likelihoods of token sequences, each run from an empty state.
//
// Plain sums over all scored tokens in double, no term dropped (spec eval.md 2). Several sequences
// share a step; their company changes no bit of the result (CPU).
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "eval/sequences.h"
#include "eval/statistics.h"
#include "eval/step_pieces.h"
#include "runtime/model_executor.h"

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace nibble::eval {

/// One scored sequence: nll[i] belongs to tokens[first_scored + i].
struct SequenceScores {
  int32_t first_scored = 1;
  std::vector<double> nll;
};

class SequenceScorer {
 public:
  /// Called after each finished sequence, in order; false stops with ErrorCode::cancelled.
  using Progress = std::function<bool(size_t index, const SequenceScores& scores)>;

  /// Both are used and outlive the scorer. capacity.logit_rows == capacity.rows; the executor has
  /// StepWriter::pages_needed(capacity) pages and capacity.sequences slots.
  SequenceScorer(runtime::ModelExecutor& executor, device::Device& device,
                 const runtime::StepCapacity& capacity, int64_t vocab_size);

  /// Errors: internal when a logit is not finite.
  Result<void> score(std::span<const ScoredSequence> sequences, const Progress& progress);

 private:
  Result<void> run(std::span<const ScoredSequence> sequences, const StepPieces& pieces);
  Result<void> take(const ScoredSequence& sequence, const StepPiece& piece, const float*& row,
                    SequenceScores& scores) const;

  runtime::ModelExecutor& executor_;
  device::Device& device_;
  const runtime::StepCapacity capacity_;
  const int64_t vocab_size_;
  StepWriter writer_;
  std::vector<float> logits_;
};

/// Mean nll by position of the predicted token in its sequence: 0-255, 256-511, 512-1023, ...
class PositionBuckets {
 public:
  void add(int32_t position, double value);
  struct Bucket {
    int32_t first = 0, last = 0;  // positions
    MeanSum sum;
  };
  /// From the first on; empty buckets before the last one are kept.
  std::vector<Bucket> buckets() const;
  static size_t index_of(int32_t position);

 private:
  std::vector<MeanSum> sums_;
};

}  // namespace nibble::eval
