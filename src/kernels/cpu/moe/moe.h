// Grouped expert products: argument structs and the kernel table of each ISA level.
//
// A step's (row, slot) pairs are sorted by expert (moe_plan.h). gate_up: act[slot] = silu(gate) *
// up of the slot's expert. down_combine: out[row] = sum over the row's slots, in slot order, of
// weight * down(act[slot]). Bits never depend on the batch, the task cut or the thread. Legend: R
// rows, S slots per row (experts per token), H hidden, I intermediate. Slot index = row * S + slot.
#pragma once

#include "kernels/cpu/common/panels.h"

#include <cstdint>

namespace nibble::cpu {

/// Largest number of slots in one gate_up task.
constexpr int64_t kMoeTaskRows = 96;

/// Slots of one expert, a range of the sorted list; and for gate_up the panels to compute.
struct MoeTask {
  int32_t expert;
  int32_t begin, end;  // range of sorted_slots
  int32_t panel_begin, panel_end;  // panels of I (gate and up each); unused by pack_slots
};

struct MoeGateUpArgs {
  const void* x;  // [R][H], bf16 (exact) or f32
  int64_t x_stride;
  const int32_t* sorted_slots;  // slot indices grouped by expert
  int64_t slots_per_row;  // S: the row of slot index i is i / S
  void* out;  // [R*S][I] by slot index, bf16 (exact) or f32; rows out_stride elements apart
  int64_t out_stride;
  const unsigned char* weights;  // bank of pack_gate_up_panels matrices
  int64_t expert_stride_bytes;
  const float* tensor_scales;  // [experts][2]: gate, up
  PanelFormat format;
  LinearArithmetic arithmetic;
  int64_t hidden, intermediate;
};

struct MoeDownArgs {
  const void* x;  // [R*S][I] by slot index, bf16 (exact) or f32
  int64_t x_stride;
  void* x_packed;  // written by pack_slots: moe_packed_slots_bytes
  const MoeTask* tasks;  // all pack tasks of the step, in order of `begin`
  int64_t num_tasks;
  const int32_t* sorted_slots;
  const int32_t* slot_positions;  // [R*S]: where a slot index stands in sorted_slots
  const float* slot_weights;  // [R*S]; null: weight 1
  int64_t slots_per_row;
  int64_t rows;  // R
  float* out;  // [R][H], rows out_stride elements apart; written, not added to
  int64_t out_stride;
  const unsigned char* weights;  // bank of pack_linear_panels matrices [H][I]
  int64_t expert_stride_bytes;
  const float* tensor_scales;  // [experts]
  PanelFormat format;
  LinearArithmetic arithmetic;
  int64_t hidden, intermediate;
};

/// Safe from any number of threads on different tasks, each with its own scratch (64-byte aligned).
struct MoeKernels {
  /// scratch: moe_gate_up_scratch_bytes.
  void (*gate_up)(const MoeGateUpArgs& args, const MoeTask& task, void* scratch) noexcept;
  /// Brings the slots of one task (at most kMoeTaskRows) into the layout down_combine reads.
  void (*pack_slots)(const MoeDownArgs& args, const MoeTask& task) noexcept;
  /// Columns of panels [panel_begin, panel_end) of H, all rows, after all pack_slots of the step.
  /// scratch: moe_down_scratch_bytes for that many panels.
  void (*down_combine)(const MoeDownArgs& args, int64_t panel_begin, int64_t panel_end,
                       void* scratch) noexcept;
};

namespace scalar {
extern const MoeKernels kMoeKernels;
}
namespace avx2 {
extern const MoeKernels kMoeKernels;
}
namespace avx512 {
extern const MoeKernels kMoeKernels;
}
namespace avx512_dot {
extern const MoeKernels kMoeKernels;
}

}  // namespace nibble::cpu
