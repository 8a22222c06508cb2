// KV pages and causal attention over them: argument structs, task decomposition, kernel tables.
//
// A page holds 64 keys (or values) of every KV head: [page][kv_head][64][head_dim]. Key blocks are
// the pages: absolute, ascending, with online softmax. The order of every sum depends on the key's
// index only, so a row's bits do not depend on the step's other rows, on how its prompt was cut
// into steps, or on the thread. One item reads each page once for all heads of a KV group and a
// block of query rows.
#pragma once

#include "kernels/cpu/common/element.h"

#include <cstddef>
#include <cstdint>

namespace nibble::cpu {

constexpr int64_t kAttentionPage = 64;
/// Rows (query tokens x heads of a KV group) that share the unpacking of a page.
constexpr int64_t kAttentionRows = 64;

/// Stores the k and v rows of one sequence into its pages: f32, bf16 (nearest even) or f8_e4m3
/// (x / scale, nearest even, saturating at +-448; NaN stays NaN).
struct KvStoreArgs {
  const float* k;  // [rows of the step][num_kv_heads][head_dim]
  const float* v;
  void* k_pages;
  void* v_pages;
  Element kv_type;
  float k_scale;
  float v_scale;
  const int32_t* pages;  // page of the sequence's keys 64i .. 64i+63
  int64_t first_row;  // row of the step that holds the sequence's first new token
  int64_t start;  // KV index of that token: kv_len - q_len
  int64_t num_kv_heads;
  int64_t head_dim;
};

/// core[row][head] = softmax(q . K^T / sqrt(head_dim), keys 0 .. own index) V for one sequence.
struct AttentionArgs {
  const float* q;  // [rows of the step][num_heads][head_dim], normed and rotated
  float* core;  // as q; may not overlap it
  const void* k_pages;
  const void* v_pages;
  Element kv_type;
  float k_scale;  // f8_e4m3: value = code * scale; ignored for the other types
  float v_scale;
  const int32_t* pages;  // page of the sequence's keys 64i .. 64i+63
  int64_t first_row;
  int64_t q_len;
  int64_t kv_len;  // the new rows included; they are stored already
  int64_t num_heads;  // a multiple of num_kv_heads
  int64_t num_kv_heads;
  int64_t head_dim;
};

/// Query tokens of one item: enough rows (tokens x heads of the group) to pay for unpacking a page.
[[maybe_unused]] static constexpr int64_t attention_block_tokens(int64_t num_heads,
                                                                 int64_t num_kv_heads) {
  const int64_t group = num_heads / num_kv_heads;
  return group >= kAttentionRows ? 1 : kAttentionRows / group;
}

/// Items of one sequence: query blocks x KV heads, the longest (last tokens) first.
[[maybe_unused]] static constexpr int64_t attention_items(int64_t q_len, int64_t num_heads,
                                                          int64_t num_kv_heads) {
  const int64_t tokens = attention_block_tokens(num_heads, num_kv_heads);
  return (q_len + tokens - 1) / tokens * num_kv_heads;
}

/// Floats of scratch that one worker needs, whatever the sequence lengths; the scratch
/// is 64-byte aligned and need not be cleared.
[[maybe_unused]] static constexpr size_t attention_scratch_floats(int64_t num_heads,
                                                                  int64_t num_kv_heads,
                                                                  int64_t head_dim) {
  const int64_t padded_dim = (head_dim + 15) / 16 * 16;
  const int64_t rows = attention_block_tokens(num_heads, num_kv_heads) * num_heads / num_kv_heads;
  // Key panel and value panel of one page; per row: query, output, scores, running maximum, sum
  // and factor.
  return static_cast<size_t>(2 * kAttentionPage * padded_dim +
                             rows * (2 * padded_dim + kAttentionPage) +
                             3 * ((rows + 15) / 16) * 16);
}

struct AttentionKernels {
  /// Tokens [first, last) of the sequence's q_len new tokens; disjoint ranges may run in parallel.
  void (*kv_store)(const KvStoreArgs& args, int64_t first, int64_t last) noexcept;
  /// One item, 0 <= item < attention_items(...). Items are independent.
  void (*attention)(const AttentionArgs& args, int64_t item, float* scratch) noexcept;
};

namespace scalar {
extern const AttentionKernels kAttentionKernels;
}
namespace avx2 {
extern const AttentionKernels kAttentionKernels;
}
namespace avx512 {
extern const AttentionKernels kAttentionKernels;
}

}  // namespace nibble::cpu
