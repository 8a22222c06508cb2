// What sampling one sequence needs from step to step: penalties' counts, biases, the draw number.
//
// Made when the sequence is admitted with room for its longest end; append() and row() allocate
// nothing. The pointers of a SampleRow are good until the next append().
#pragma once

#include "device/sample_plan.h"
#include "runtime/request.h"

#include <cstdint>
#include <vector>

namespace nibble::runtime {

class SamplingState {
 public:
  SamplingState() = default;
  /// max_completion: tokens that will be appended at most.
  SamplingState(const Request& request, int32_t max_completion);

  /// How the next token is chosen. The draw number is the number of tokens generated so far, so a
  /// seed gives the same tokens whoever shares the step.
  device::SampleRow row(int32_t logits_row) const;

  /// Takes a generated token.
  void append(int32_t token);

 private:
  SamplingParams params_;
  int32_t min_tokens_ = 0;
  int32_t num_generated_ = 0;
  bool has_penalties_ = false;
  std::vector<device::TokenCount> counts_;  // rising token; empty without penalties
  std::vector<device::LogitBias> bias_;  // first the stop tokens at -infinity, then the request's
  int32_t num_stop_bias_ = 0;
};

}  // namespace nibble::runtime
