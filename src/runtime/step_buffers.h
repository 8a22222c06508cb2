// Device buffers of a step at fixed addresses: a Step goes in, the StepPlan and SamplePlan that
// refer to the buffers come out.
//
// Sized once for the largest step; loading a step allocates nothing. Steps of one size always meet
// the same addresses. Every device gets its arrays through Device::upload (on the CPU a copy). The
// sampling rows stay in host memory, at a fixed address, with the pointers of the step: they are
// valid as long as the Step's sequences are.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "runtime/executor.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace nibble::runtime {

class StepBuffers {
 public:
  /// Device memory that create() takes.
  static size_t device_bytes(const StepCapacity& capacity);
  /// Errors: exhausted. The device outlives the buffers.
  static Result<std::unique_ptr<StepBuffers>> create(device::Device& device,
                                                     const StepCapacity& capacity);

  /// Queues the upload and returns the plan; num_rows >= 1 and the capacity are checked.
  const device::StepPlan& load(const Step& step);
  /// The sampling plan of the step loaded last.
  device::SamplePlan sample_plan(int32_t vocab_limit) const;

 private:
  /// Byte offsets of the arrays in the block.
  struct Layout {
    size_t token_ids = 0, positions = 0, row_sequence = 0, sequences = 0, logit_rows = 0,
           state_saves = 0, page_table = 0, end = 0;
  };

  StepBuffers(device::Device& device, const StepCapacity& capacity,
              std::unique_ptr<device::Memory> memory);

  static Layout layout_of(const StepCapacity& capacity, size_t begin);
  void check_fits(const Step& step) const;
  void fill_row_sequence(const Step& step);
  void fill_page_table(const Step& step);
  void refer_to(const Layout& layout);

  device::Device& device_;
  StepCapacity capacity_;
  const Layout small_, large_;
  std::unique_ptr<device::Memory> memory_;
  std::vector<std::byte> staged_;  // a small step on its way
  std::vector<int32_t> row_sequence_;  // host side of what a Step does not hold ready
  std::vector<int32_t> page_table_;
  std::vector<device::SampleRow> samples_;
  int32_t num_samples_ = 0;
  device::StepPlan plan_;
};

}  // namespace nibble::runtime
