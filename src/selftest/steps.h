// Step plans of the checks: sequences of every kind over shuffled pages.
#pragma once

#include "device/step_plan.h"
#include "selftest/random_data.h"

#include <string>
#include <vector>

namespace nibble::selftest {

struct StepCase {
  std::string name;
  std::vector<device::SequenceStep> sequences;
  std::vector<device::StateSave> saves;
};

/// Rows and pages a case may use: 10 pages of 64 tokens a sequence, slots 0 .. kSlots - 1.
inline constexpr int32_t kPagesPerSequence = 10, kSlots = 34;

/// Decodes of one and of many sequences, prefill with state saves, both in one step.
std::vector<StepCase> step_cases();

int32_t rows_of(const StepCase& c);
int64_t cached_tokens(const StepCase& c);  // tokens of the pools that the plan's pages lie in

/// A plan that only says how large the step is, for operations that ask no more.
device::StepPlan plan_of(int64_t rows, int64_t sequences);

/// The plan with its buffers in `buffers`. Rotary positions differ by axis; logits of the last row
/// of every sequence.
device::StepPlan make_plan(const StepCase& c, Buffers& buffers);

/// KV pages of `tokens` tokens: codes or BF16 values, made once and put on every device.
class KvValues {
 public:
  KvValues(DType dtype, int64_t tokens, int64_t row_elements, Rng& rng);
  device::KvLayer put(Buffers& buffers) const;
  /// Contents of the pools `layer` came from.
  TensorView keys(const device::KvLayer& layer) const;

 private:
  DType dtype_;
  int64_t elements_;
  std::vector<float> values_[2];
  std::vector<uint8_t> codes_[2];
};

/// Contents of kSlots state slots.
struct StateValues {
  StateValues(int64_t state_elements, int64_t window_elements, Rng& rng);
  int64_t state_elements, window_elements;
  std::vector<float> recurrent, window;
};

struct States {
  device::StateLayer layer;
  TensorView recurrent, window;
};
/// Window of `columns` rows, in the activation type.
States put_states(const StateValues& values, int64_t columns, DType activation, Buffers& buffers);

}  // namespace nibble::selftest
