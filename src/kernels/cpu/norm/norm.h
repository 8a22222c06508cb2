// RMS norms over rows: argument structs and the kernel table of each ISA level.
//
// rms_norm is the zero-centred form (1 + w) of hidden states; gated_rms_norm is the plain-w norm
// inside Gated DeltaNet (qwen3_5_moe.md 3.2). Using one's weight convention for the other gives
// plausible norms and garbage.
#pragma once

#include "kernels/cpu/common/element.h"

#include <cstdint>

namespace nibble::cpu {

/// out[r][i] = x[r][i] * rsqrt(mean_i(x^2) + eps) * (1 + weight[i]).
struct RmsNormArgs {
  const float* x;  // [rows][n]
  const float* weight;  // [n]
  void* out;  // [rows][n], f32 (may be x) or bf16
  Element out_type;
  int64_t n;
  float eps;
};

/// Per row and head: out = core * rsqrt(mean(core^2) + eps) * weight * silu(z).
struct GatedRmsNormArgs {
  const float* core;  // [rows][heads][head_dim]
  const float* z;  // [rows][heads][head_dim]
  const float* weight;  // [head_dim], shared by heads
  void* out;  // [rows][heads][head_dim], f32 or bf16
  Element out_type;
  int64_t heads;
  int64_t head_dim;
  float eps;
};

/// Rows [first, last); any number of threads on disjoint rows.
struct NormKernels {
  void (*rms_norm)(const RmsNormArgs& args, int64_t first, int64_t last) noexcept;
  void (*gated_rms_norm)(const GatedRmsNormArgs& args, int64_t first, int64_t last) noexcept;
};

namespace scalar {
extern const NormKernels kNormKernels;
}
namespace avx2 {
extern const NormKernels kNormKernels;
}
namespace avx512 {
extern const NormKernels kNormKernels;
}

}  // namespace nibble::cpu
