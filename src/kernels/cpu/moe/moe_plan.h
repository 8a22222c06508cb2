// Plans the grouped expert products of one step: sorts (row, slot) pairs by expert and cuts tasks.
//
// MoePlan owns its lists, sized once for the largest step: build() never allocates. Engine thread
// only. How a caller runs a block, with a pool's parallel_for(count, task(index, worker)):
//   plan.build(experts, rows)
//   gate_up:       for t in plan.gate_up_tasks(): kernels.gate_up(args, t, scratch[worker])
//   pack_slots:    for t in plan.pack_tasks():    kernels.pack_slots(args, t)
//   down_combine:  for i in [0, plan.down_tasks()): kernels.down_combine(args, plan.down_begin(i),
//                                                       plan.down_begin(i + 1), scratch[worker])
#pragma once

#include "kernels/cpu/linear/linear.h"
#include "kernels/cpu/moe/moe.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace nibble::cpu {

/// Index = IsaLevel (base/cpu_features.h). Aborts beyond.
const MoeKernels& moe_kernels(int isa_level);

/// The shapes of one expert bank and the machine it runs on. slots_per_row 1 and num_experts 1: the
/// shared expert.
struct MoeShape {
  int64_t max_rows = 0;
  int64_t num_experts = 0;
  int64_t slots_per_row = 0;
  int64_t hidden = 0;
  int64_t intermediate = 0;
  int threads = 1;
};

/// Worker scratch of gate_up, any format and arithmetic.
size_t moe_gate_up_scratch_bytes(const MoeShape& shape);
/// Worker scratch of down_combine for the plans of `shape`.
size_t moe_down_scratch_bytes(const MoeShape& shape);
/// The shared x_packed buffer of MoeDownArgs.
size_t moe_packed_slots_bytes(const MoeShape& shape);

class MoePlan {
 public:
  MoePlan() = default;
  /// The only allocation.
  explicit MoePlan(const MoeShape& shape);

  /// experts: [rows][slots_per_row], each in [0, num_experts); null: everything goes to expert 0.
  /// rows <= max_rows.
  void build(const int32_t* experts, int64_t rows);

  std::span<const MoeTask> gate_up_tasks() const { return {gate_up_.data(), num_gate_up_}; }
  std::span<const MoeTask> pack_tasks() const { return {pack_.data(), num_pack_}; }
  const int32_t* sorted_slots() const { return sorted_.data(); }
  const int32_t* slot_positions() const { return positions_.data(); }
  int64_t down_tasks() const;
  /// First panel of down task `index`; index == down_tasks() gives the number of panels.
  int64_t down_begin(int64_t index) const;
  /// Experts with at least one slot in this step.
  int64_t active_experts() const { return active_experts_; }

 private:
  void sort_slots(const int32_t* experts);
  void cut_tasks();

  MoeShape shape_;
  int64_t rows_ = 0;
  int64_t active_experts_ = 0;
  int64_t down_panels_per_task_ = 1;
  size_t num_gate_up_ = 0, num_pack_ = 0;
  std::vector<MoeTask> gate_up_, pack_;
  std::vector<int32_t> sorted_, positions_;
  std::vector<int32_t> offsets_;  // [num_experts + 1]
};

}  // namespace nibble::cpu
