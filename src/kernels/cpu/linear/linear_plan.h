// How one linear layer is cut into tasks, and the table lookup by ISA level.
//
// Pure functions. How a caller runs a layer, with a pool's parallel_for(count, task):
//   const LinearPlan plan = plan_linear(kernels, arithmetic, format, m, n, k, threads);
//   args.x_packed = plan.pack_tasks == 0 ? args.x : scratch;       // scratch: plan.packed_bytes
//   for each task t in [0, plan.pack_tasks): kernels.pack_rows(args, scratch, pack_begin, pack_end)
//   for each task t in [0, plan.tasks):      kernels.linear(args, linear_task(plan, t))
// Layers with the same x, arithmetic and tile_rows (BF16 and FP8 always agree) may share one
// packing.
#pragma once

#include "kernels/cpu/linear/linear.h"

#include <cstddef>
#include <cstdint>

namespace nibble::cpu {

struct LinearPlan {
  int64_t m = 0;
  int64_t panels = 0;
  int64_t pack_tasks = 0;  // 0: x is already in packed form
  int64_t pack_rows = 0;  // rows of one packing task
  size_t packed_bytes = 0;  // of the x_packed buffer, 0 without packing
  int64_t tasks = 0;
  int64_t row_block = 0;
  int64_t row_blocks = 0;
  int64_t panels_per_task = 0;
};

/// Index = IsaLevel (base/cpu_features.h): scalar, avx2, avx512, avx512_dot. Aborts beyond.
const LinearKernels& linear_kernels(int isa_level);

LinearPlan plan_linear(const LinearKernels& kernels, LinearArithmetic arithmetic,
                       PanelFormat format, int64_t m, int64_t n, int64_t k, int threads);

/// Upper bound of LinearPlan::packed_bytes for up to m rows of k elements in any format.
size_t packed_rows_bytes(const LinearKernels& kernels, LinearArithmetic arithmetic, int64_t m,
                         int64_t k);

/// Task `index` of plan.tasks. Neighbouring tasks share weight panels.
LinearRange linear_task(const LinearPlan& plan, int64_t index);

/// First row of packing task `index`; index == plan.pack_tasks gives m.
int64_t pack_task_begin(const LinearPlan& plan, int64_t index);

}  // namespace nibble::cpu
