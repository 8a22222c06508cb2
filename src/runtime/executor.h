// Executor: runs one planned step and samples. The engine's only view of model and device; tests
// fake it.
//
// One step is Step in, one SampleResult per wanted token out. The engine thread calls; a call
// returns when the results are on the host.
#pragma once

#include "base/result.h"
#include "device/sample_plan.h"
#include "device/step_plan.h"

#include <cstdint>
#include <span>
#include <vector>

namespace nibble::runtime {

/// Sizes of the largest step, for everything that is taken once at start-up.
struct StepCapacity {
  int32_t rows = 0;
  int32_t sequences = 0;
  int32_t pages_per_sequence = 0;
  int32_t logit_rows = 0;
  int32_t state_saves = 0;
};

/// A step on the host: what device::StepPlan says, in vectors that step_builder.h fills. Index
/// meanings as there.
struct Step {
  std::vector<int32_t> token_ids;
  std::vector<int32_t> positions;  // [rows][3]
  std::vector<device::SequenceStep> sequences;
  std::vector<std::span<const int32_t>> pages;  // per sequence; the lists of the sequences
  std::vector<int32_t> logit_rows;
  std::vector<device::StateSave> state_saves;
  std::vector<device::SampleRow> samples;  // which logits become tokens, and how
};

class Executor {
 public:
  virtual ~Executor() = default;
  /// Runs the step. results[i] answers step.samples[i]. An error means the device is lost.
  virtual Result<void> run(const Step& step, std::span<device::SampleResult> results) = 0;
  virtual int32_t vocab_size() const = 0;
};

}  // namespace nibble::runtime
