// Task cuts of dense linear layers.
//
// Few rows: weights stream once, so a task is a contiguous run of panels large enough to hide the
// start of a stream. Many rows: a block of packed rows stays in L2 (kRowBlockBytes of 1 MiB) while
// panels pass.
#include "kernels/cpu/linear/linear_plan.h"

#include "base/check.h"
#include "kernels/cpu/linear/packed_weights.h"

#include <algorithm>

namespace nibble::cpu {
namespace {

constexpr int64_t kRowBlockBytes = 512 * 1024;
constexpr int64_t kMinTaskBytes = 128 * 1024;
constexpr int64_t kMaxSharedBytes = 4 * 1024 * 1024;  // panels that row blocks re-read from L3
constexpr int64_t kTasksPerThread = 8;
constexpr int64_t kPanelGroup = 4;  // the kernels' widest panel group

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return ceil_div(value, multiple) * multiple;
}

int64_t packed_element_bytes(const LinearKernels& kernels, LinearArithmetic arithmetic) {
  return arithmetic == LinearArithmetic::f32 ? 4 : kernels.exact_element_bytes;
}

void plan_packing(LinearPlan& plan, int64_t row_bytes, int64_t tile, int threads) {
  const int64_t wanted = std::clamp<int64_t>(plan.m * row_bytes / kMinTaskBytes, 1,
                                             int64_t{threads} * kTasksPerThread);
  plan.pack_rows = round_up(ceil_div(plan.m, wanted), tile);
  plan.pack_tasks = ceil_div(plan.m, plan.pack_rows);
  plan.packed_bytes = static_cast<size_t>(plan.m * row_bytes);
}

}  // namespace

const LinearKernels& linear_kernels(int isa_level) {
  static constexpr const LinearKernels* kTable[] = {&scalar::kLinearKernels, &avx2::kLinearKernels,
                                                    &avx512::kLinearKernels,
                                                    &avx512_dot::kLinearKernels};
  NIBBLE_CHECK(isa_level >= 0 && isa_level < 4, "unknown ISA level", isa_level);
  return *kTable[isa_level];
}

LinearPlan plan_linear(const LinearKernels& kernels, LinearArithmetic arithmetic,
                       PanelFormat format, int64_t m, int64_t n, int64_t k, int threads) {
  const int64_t tile = kernels.tile_rows[static_cast<int>(arithmetic)][static_cast<int>(format)];
  const int64_t element_bytes = packed_element_bytes(kernels, arithmetic);
  const int64_t input_bytes = arithmetic == LinearArithmetic::f32 ? 4 : 2;
  const int64_t row_bytes = round_up(k, kBlockK) * element_bytes;
  LinearPlan plan;
  plan.m = m;
  plan.panels = num_panels(n);
  if (m == 0 || n == 0) return plan;
  if (m > 1 || k % kBlockK != 0 || element_bytes != input_bytes) {
    plan_packing(plan, row_bytes, tile, threads);
  }

  const int64_t most_rows =
      std::clamp(kRowBlockBytes / row_bytes / tile * tile, tile, kMaxRangeRows / tile * tile);
  plan.row_block = round_up(ceil_div(m, ceil_div(m, most_rows)), tile);
  plan.row_blocks = ceil_div(m, plan.row_block);

  const int64_t bytes = panel_bytes(format, k);
  int64_t panels = ceil_div(plan.panels * plan.row_blocks, threads * kTasksPerThread);
  if (plan.row_blocks > 1) panels = std::min(panels, ceil_div(kMaxSharedBytes, bytes));
  // A block of rows makes a panel worth its number of rows; a task needs so many bytes of work.
  panels = std::max(panels, ceil_div(kMinTaskBytes, bytes * std::min(plan.row_block, m)));
  plan.panels_per_task = round_up(panels, kPanelGroup);
  plan.tasks = ceil_div(plan.panels, plan.panels_per_task) * plan.row_blocks;
  return plan;
}

size_t packed_rows_bytes(const LinearKernels& kernels, LinearArithmetic arithmetic, int64_t m,
                         int64_t k) {
  return static_cast<size_t>(m * round_up(k, kBlockK) * packed_element_bytes(kernels, arithmetic));
}

LinearRange linear_task(const LinearPlan& plan, int64_t index) {
  const int64_t row = index % plan.row_blocks * plan.row_block;
  const int64_t panel = index / plan.row_blocks * plan.panels_per_task;
  return {row, std::min(row + plan.row_block, plan.m), panel,
          std::min(panel + plan.panels_per_task, plan.panels)};
}

int64_t pack_task_begin(const LinearPlan& plan, int64_t index) {
  return std::min(index * plan.pack_rows, plan.m);
}

}  // namespace nibble::cpu
