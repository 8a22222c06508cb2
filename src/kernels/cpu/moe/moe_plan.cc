// Counting sort of (row, slot) pairs by expert, and the task lists of one step.
#include "kernels/cpu/moe/moe_plan.h"

#include "base/check.h"
#include "kernels/cpu/linear/packed_weights.h"

#include <algorithm>

namespace nibble::cpu {
namespace {

constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kDownScratchBytes = 1024 * 1024;  // partial sums of one column block: about L2
constexpr int64_t kLineBytes = kPanelRows * static_cast<int64_t>(sizeof(float));

int64_t max_chunks(const MoeShape& shape) {
  const int64_t slots = shape.max_rows * shape.slots_per_row;
  return std::min(shape.num_experts, slots) + slots / kMoeTaskRows;
}

size_t padded_k(int64_t k) {
  return static_cast<size_t>(ceil_div(k, kBlockK) * kBlockK);
}

}  // namespace

const MoeKernels& moe_kernels(int isa_level) {
  static constexpr const MoeKernels* kTable[] = {&scalar::kMoeKernels, &avx2::kMoeKernels,
                                                 &avx512::kMoeKernels, &avx512_dot::kMoeKernels};
  NIBBLE_CHECK(isa_level >= 0 && isa_level < 4, "unknown ISA level", isa_level);
  return *kTable[isa_level];
}

size_t moe_gate_up_scratch_bytes(const MoeShape& shape) {
  return kMoeTaskRows * padded_k(shape.hidden) * sizeof(float);
}

size_t moe_down_scratch_bytes(const MoeShape& shape) {
  const int64_t one_panel = shape.max_rows * shape.slots_per_row * kLineBytes;
  return static_cast<size_t>(std::max(one_panel, kDownScratchBytes));
}

size_t moe_packed_slots_bytes(const MoeShape& shape) {
  return static_cast<size_t>(shape.max_rows * shape.slots_per_row) * padded_k(shape.intermediate) *
         sizeof(float);
}

MoePlan::MoePlan(const MoeShape& shape) : shape_(shape) {
  const auto slots = static_cast<size_t>(shape.max_rows * shape.slots_per_row);
  const auto chunks = static_cast<size_t>(max_chunks(shape));
  pack_.resize(chunks);
  gate_up_.resize(chunks + static_cast<size_t>(shape.threads * kTasksPerThread));
  sorted_.resize(slots);
  positions_.resize(slots);
  offsets_.resize(static_cast<size_t>(shape.num_experts) + 1);
}

void MoePlan::build(const int32_t* experts, int64_t rows) {
  NIBBLE_CHECK(rows >= 0 && rows <= shape_.max_rows, "rows of a step", rows, shape_.max_rows);
  rows_ = rows;
  sort_slots(experts);
  cut_tasks();
}

void MoePlan::sort_slots(const int32_t* experts) {
  const int64_t slots = rows_ * shape_.slots_per_row;
  std::fill(offsets_.begin(), offsets_.end(), 0);
  for (int64_t i = 0; i < slots; ++i) {
    const int32_t expert = experts == nullptr ? 0 : experts[i];
    NIBBLE_CHECK(expert >= 0 && expert < shape_.num_experts, "expert of a slot", expert);
    ++offsets_[static_cast<size_t>(expert) + 1];
  }
  for (size_t e = 1; e < offsets_.size(); ++e) offsets_[e] += offsets_[e - 1];
  // Placing advances each start to the next expert's start; shifting back by one restores them.
  for (int64_t i = 0; i < slots; ++i) {
    const auto expert = static_cast<size_t>(experts == nullptr ? 0 : experts[i]);
    const int32_t position = offsets_[expert]++;
    sorted_[static_cast<size_t>(position)] = static_cast<int32_t>(i);
    positions_[static_cast<size_t>(i)] = position;
  }
  std::copy_backward(offsets_.begin(), offsets_.end() - 1, offsets_.end());
  offsets_[0] = 0;
}

void MoePlan::cut_tasks() {
  const auto panels = static_cast<int32_t>(num_panels(shape_.intermediate));
  num_pack_ = 0;
  active_experts_ = 0;
  for (int32_t e = 0; e < shape_.num_experts; ++e) {
    const int32_t first = offsets_[static_cast<size_t>(e)];
    const int32_t last = offsets_[static_cast<size_t>(e) + 1];
    active_experts_ += last > first;
    for (int32_t begin = first; begin < last; begin += kMoeTaskRows) {
      pack_[num_pack_++] = {e, begin, std::min<int32_t>(begin + kMoeTaskRows, last), 0, panels};
    }
  }
  num_gate_up_ = 0;
  if (num_pack_ == 0) return;
  const auto chunks = static_cast<int64_t>(num_pack_);
  const auto pieces = static_cast<int32_t>(
      std::min<int64_t>(ceil_div(shape_.threads * kTasksPerThread, chunks), panels));
  const auto piece_panels = static_cast<int32_t>(ceil_div(panels, pieces));
  for (size_t i = 0; i < num_pack_; ++i) {
    for (int32_t panel = 0; panel < panels; panel += piece_panels) {
      MoeTask task = pack_[i];
      task.panel_begin = panel;
      task.panel_end = std::min(panel + piece_panels, panels);
      gate_up_[num_gate_up_++] = task;
    }
  }
  // The longest tasks first: the last ones to finish are then short.
  std::sort(gate_up_.begin(), gate_up_.begin() + static_cast<std::ptrdiff_t>(num_gate_up_),
            [](const MoeTask& a, const MoeTask& b) {
              const int32_t rows_a = a.end - a.begin, rows_b = b.end - b.begin;
              if (rows_a != rows_b) return rows_a > rows_b;
              if (a.begin != b.begin) return a.begin < b.begin;
              return a.panel_begin < b.panel_begin;
            });
  const int64_t column_panels = num_panels(shape_.hidden);
  const int64_t scratch_panels =
      std::max<int64_t>(1, kDownScratchBytes / (rows_ * shape_.slots_per_row * kLineBytes));
  down_panels_per_task_ =
      std::min(scratch_panels, ceil_div(column_panels, shape_.threads * kTasksPerThread));
}

int64_t MoePlan::down_tasks() const {
  return rows_ == 0 ? 0 : ceil_div(num_panels(shape_.hidden), down_panels_per_task_);
}

int64_t MoePlan::down_begin(int64_t index) const {
  return std::min(index * down_panels_per_task_, num_panels(shape_.hidden));
}

}  // namespace nibble::cpu
