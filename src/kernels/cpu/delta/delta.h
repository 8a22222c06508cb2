// Gated delta rule and its gates: argument structs, task decomposition, kernel tables.
//
// State of a value head: [key_head_dim][value_head_dim] f32, value head h reads key head
// h / (num_value_heads / num_key_heads). Recurrent form per token (qwen3_5_moe.md 3.6 g), chunked
// form for prefill (3.6 i): chunks end at multiples of 64 tokens counted from the start of the
// sequence, so the bits do not depend on how a prompt is cut into steps, as long as it is cut
// there.
#pragma once

#include "kernels/cpu/common/element.h"

#include <cstddef>
#include <cstdint>

namespace nibble::cpu {

constexpr int64_t kDeltaChunk = 64;
/// Columns of the value dimension that one recurrent item advances.
constexpr int64_t kDeltaColumnBlock = 64;
/// Prefill chunks of at most this many tokens take the recurrent form. A chunk's length does not
/// depend on how the prompt is cut, so neither do the bits.
constexpr int64_t kDeltaShortChunk = 4;

/// g = -exp(a_log) * softplus(a + dt_bias) and beta = sigmoid(b), in place.
struct DeltaGatesArgs {
  float* a_to_g;  // [rows][heads]
  float* b_to_beta;  // [rows][heads]
  const float* a_log;  // [heads]
  const float* dt_bias;  // [heads]
  int64_t heads;
};

/// One sequence: its rows, its state.
struct GatedDeltaArgs {
  const float* qkv;  // [rows of the step][2 * key heads * dk + value heads * dv], after SiLU
  const float* g;  // [rows of the step][value heads], <= 0
  const float* beta;  // [rows of the step][value heads]
  float* core;  // [rows of the step][value heads * dv]
  int64_t first_row;
  int64_t q_len;
  int64_t start;  // tokens of the sequence before its first row: kv_len - q_len
  int64_t num_key_heads;
  int64_t num_value_heads;
  int64_t key_head_dim;
  int64_t value_head_dim;
  const float* state_in;  // [value heads][dk][dv]; null: zeros
  float* state_out;  // may be state_in
  // State saves of the whole step; those of `sequence` are served. Slot s: state_pool + s * stride.
  const StateSaveRequest* saves;
  int64_t num_saves;
  int32_t sequence;
  float* state_pool;
  int64_t state_stride;  // elements between slots
};

/// Items of one decoding sequence: value heads x column blocks.
[[maybe_unused]] static constexpr int64_t delta_recurrent_items(int64_t num_value_heads,
                                                                int64_t value_head_dim) {
  return num_value_heads * ((value_head_dim + kDeltaColumnBlock - 1) / kDeltaColumnBlock);
}

/// Items of one prefilling sequence: key heads, each with its value heads (they share the products
/// of keys and queries).
[[maybe_unused]] static constexpr int64_t delta_chunked_items(int64_t num_key_heads) {
  return num_key_heads;
}

/// Floats of scratch of one worker, for either form; 64-byte aligned, need not be cleared.
[[maybe_unused]] static constexpr size_t delta_scratch_floats(int64_t key_head_dim,
                                                              int64_t value_head_dim) {
  const int64_t dk = (key_head_dim + 15) / 16 * 16;
  const int64_t dv = (value_head_dim + 15) / 16 * 16;
  // Normed q and k, k transposed, decayed k; new values and outputs; four 64 x 64 matrices and
  // eight vectors.
  return static_cast<size_t>(kDeltaChunk * (4 * dk + 2 * dv) + 4 * kDeltaChunk * kDeltaChunk +
                             8 * kDeltaChunk);
}

struct DeltaKernels {
  /// Rows [first, last).
  void (*delta_gates)(const DeltaGatesArgs& args, int64_t first, int64_t last) noexcept;
  /// One item of delta_recurrent_items: all q_len tokens, one after the other.
  void (*gated_delta_recurrent)(const GatedDeltaArgs& args, int64_t item, float* scratch) noexcept;
  /// One item of delta_chunked_items.
  void (*gated_delta_chunked)(const GatedDeltaArgs& args, int64_t item, float* scratch) noexcept;
};

namespace scalar {
extern const DeltaKernels kDeltaKernels;
}
namespace avx2 {
extern const DeltaKernels kDeltaKernels;
}
namespace avx512 {
extern const DeltaKernels kDeltaKernels;
}

}  // namespace nibble::cpu
