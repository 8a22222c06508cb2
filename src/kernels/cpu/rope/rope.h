// Query and key norm with partial rotary embedding: argument struct and kernel tables.
//
// Takes q_proj's output apart: per head head_dim query values, then head_dim gate values (not two
// halves of the whole row). Only the first rotary_dim dimensions turn, as pairs (j, j +
// rotary_dim / 2); the gate is neither normed nor turned.
#pragma once

#include <cstdint>

namespace nibble::cpu {

struct QkNormRopeArgs {
  const float* q_gate;  // [rows][num_heads][2][head_dim]
  float* q;  // [rows][num_heads][head_dim]
  float* gate;  // [rows][num_heads][head_dim]
  float* k;  // [rows][num_kv_heads][head_dim], in place
  const float* q_norm;  // [head_dim], used as (1 + w)
  const float* k_norm;  // [head_dim], used as (1 + w)
  const float* table;  // [rows][2][rotary_dim / 2], from rope_table
  int64_t num_heads;
  int64_t num_kv_heads;
  int64_t head_dim;
  int64_t rotary_dim;
  float eps;
};

/// Rows [first, last); any number of threads on disjoint rows.
struct RopeKernels {
  void (*qk_norm_rope)(const QkNormRopeArgs& args, int64_t first, int64_t last) noexcept;
};

namespace scalar {
extern const RopeKernels kRopeKernels;
}
namespace avx2 {
extern const RopeKernels kRopeKernels;
}
namespace avx512 {
extern const RopeKernels kRopeKernels;
}

}  // namespace nibble::cpu
