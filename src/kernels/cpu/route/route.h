// The router's choice: top experts of each row and their weights (qwen3_5_moe.md 3.7).
//
// Ties go to the lowest index; the order is falling logit, which is also the order in which the
// experts' outputs are summed later.
#pragma once

#include <cstdint>

namespace nibble::cpu {

struct MoeRouteArgs {
  const float* logits;  // [rows][num_experts]
  const int32_t* forced;  // [rows][num_chosen]: experts to take instead of the top ones; or null
  int32_t* experts;  // [rows][num_chosen], always valid indices (NaN logits count as -infinity)
  float* weights;  // [rows][num_chosen]: softmax over the chosen logits
  int64_t num_experts;
  int64_t num_chosen;  // 1 .. num_experts
};

/// Rows [first, last); any number of threads on disjoint rows.
struct RouteKernels {
  void (*moe_route)(const MoeRouteArgs& args, int64_t first, int64_t last) noexcept;
};

namespace scalar {
extern const RouteKernels kRouteKernels;
}
namespace avx2 {
extern const RouteKernels kRouteKernels;
}
namespace avx512 {
extern const RouteKernels kRouteKernels;
}

}  // namespace nibble::cpu
