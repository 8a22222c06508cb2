// Elementwise operations: sigmoid gate, addition, shared expert's sum, row gathering.
//
// One rounding at the end where the output is bf16. Argument structs and kernel tables.
#pragma once

#include "kernels/cpu/common/element.h"

#include <cstdint>

namespace nibble::cpu {

/// out = x * sigmoid(gate).
struct SigmoidGateArgs {
  const float* x;  // [rows][n]
  const float* gate;  // [rows][n]
  void* out;  // [rows][n], f32 (may be x) or bf16
  Element out_type;
  int64_t n;
};

/// out = a + b.
struct AddArgs {
  const float* a;  // [rows][n]
  const float* b;  // [rows][n]
  float* out;  // [rows][n], may be a or b
  int64_t n;
};

/// out = base + (routed + sigmoid(gate_logit) * shared). The sigmoid replaces gate_logit.
struct AddSharedArgs {
  const float* base;  // [rows][n], may be out; null counts as zero
  const float* routed;  // [rows][n]
  const float* shared;  // [rows][n]
  float* gate_logit;  // [rows], becomes its sigmoid
  float* out;  // [rows][n]
  int64_t n;
};

/// out[r] = x[rows[r]].
struct GatherRowsArgs {
  const float* x;  // [.][n]
  const int32_t* rows;  // [rows of out]
  void* out;  // [rows of out][n], f32 or bf16
  Element out_type;
  int64_t n;
};

/// Rows [first, last) of out; any number of threads on disjoint rows.
struct ElementwiseKernels {
  void (*sigmoid_gate)(const SigmoidGateArgs& args, int64_t first, int64_t last) noexcept;
  void (*add)(const AddArgs& args, int64_t first, int64_t last) noexcept;
  void (*moe_add_shared)(const AddSharedArgs& args, int64_t first, int64_t last) noexcept;
  void (*gather_rows)(const GatherRowsArgs& args, int64_t first, int64_t last) noexcept;
};

namespace scalar {
extern const ElementwiseKernels kElementwiseKernels;
}
namespace avx2 {
extern const ElementwiseKernels kElementwiseKernels;
}
namespace avx512 {
extern const ElementwiseKernels kElementwiseKernels;
}

}  // namespace nibble::cpu
