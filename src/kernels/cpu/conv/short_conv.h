// Causal depthwise convolution with SiLU, and its window of past columns (qwen3_5_moe.md 3.6 b).
//
// The window holds columns before the convolution, oldest first, in the activation type. Read slot
// and write slot may be the same: each item touches its own channels only and writes last.
#pragma once

#include "kernels/cpu/common/element.h"

#include <cstdint>

namespace nibble::cpu {

constexpr int64_t kConvChannelBlock = 512;
constexpr int64_t kMaxConvKernel = 8;

/// One sequence. y[t][c] = silu(sum_j weight[c][j] * x[t - kernel + 1 + j][c]).
struct ShortConvArgs {
  const void* x;  // [rows of the step][channels], type
  float* out;  // [rows of the step][channels]
  Element type;  // f32 or bf16: x and the windows
  const float* weight;  // [channels][kernel], the last tap meets the newest column
  int64_t channels;
  int64_t kernel;  // 1 .. kMaxConvKernel
  int64_t columns;  // columns of a window, >= kernel - 1
  const void* window_in;  // [columns][channels]; null: zero history
  void* window_out;  // [columns][channels]
  int64_t first_row;
  int64_t q_len;
  // State saves of the whole step; those of `sequence` are served. Slot s: window_pool + s *
  // stride.
  const StateSaveRequest* saves;
  int64_t num_saves;
  int32_t sequence;
  void* window_pool;
  int64_t window_stride_bytes;
  int64_t start;  // tokens of the sequence before its first row: kv_len - q_len
};

/// Items of one sequence: channel blocks.
[[maybe_unused]] static constexpr int64_t short_conv_items(int64_t channels) {
  return (channels + kConvChannelBlock - 1) / kConvChannelBlock;
}

struct ConvKernels {
  /// One item; items are independent.
  void (*short_conv)(const ShortConvArgs& args, int64_t item) noexcept;
};

namespace scalar {
extern const ConvKernels kConvKernels;
}
namespace avx2 {
extern const ConvKernels kConvKernels;
}
namespace avx512 {
extern const ConvKernels kConvKernels;
}

}  // namespace nibble::cpu
