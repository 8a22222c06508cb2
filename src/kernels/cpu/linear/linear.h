// Dense linear layers on packed weights: argument structs and the kernel table of each ISA level.
//
// y[M][N] (+)= x[M][K] * W^T. Weights lie in panels of 16 output rows (packed_weights.h). Every
// output element is one accumulator chain, k ascending, with the same operations whatever M, the
// ranges or the thread: a result's bits never depend on the batch. Plain structs only, because
// files compiled for one ISA level include this header.
#pragma once

#include "kernels/cpu/common/element.h"
#include "kernels/cpu/common/panels.h"

#include <cstdint>

namespace nibble::cpu {

struct LinearArgs {
  const void* x;  // [m][k], bf16 (exact) or f32; rows x_stride elements apart
  int64_t x_stride;
  const void* x_packed;  // what pack_rows wrote, or x itself where the plan needs no packing
  void* y;  // [m][n], f32 or (replace only) bf16; rows y_stride elements apart; no overlap with x
  int64_t y_stride;
  Element y_type;
  bool accumulate;  // y += instead of y =
  const unsigned char* weights;  // pack_linear_panels, 64-byte aligned
  PanelFormat format;
  LinearArithmetic arithmetic;
  int64_t m, n, k;
  float tensor_scale;  // NVFP4 weight_scale_2, FP8 weight_scale; 1 for BF16
};

/// Rows [row_begin, row_end) times panels [panel_begin, panel_end). row_begin is a multiple of the
/// kernels' tile_rows; row_end too, or m.
struct LinearRange {
  int64_t row_begin, row_end;
  int64_t panel_begin, panel_end;
};

/// Largest number of rows in one LinearRange (kernels keep that many accumulators on the stack).
constexpr int64_t kMaxRangeRows = 192;

/// Safe from any number of threads on disjoint ranges.
struct LinearKernels {
  const char* level;
  int32_t exact_element_bytes;  // element of packed x in exact arithmetic: 2 (BF16) or 4 (f32)
  int32_t tile_rows[2][kPanelFormats];  // [arithmetic][format]: rows of one tile of packed x
  /// Writes rows [row_begin, row_end) (same rule as LinearRange) of x to args.x_packed's buffer.
  void (*pack_rows)(const LinearArgs& args, void* x_packed, int64_t row_begin,
                    int64_t row_end) noexcept;
  void (*linear)(const LinearArgs& args, const LinearRange& range) noexcept;
};

namespace scalar {
extern const LinearKernels kLinearKernels;
}
namespace avx2 {
extern const LinearKernels kLinearKernels;
}
namespace avx512 {
extern const LinearKernels kLinearKernels;
}
namespace avx512_dot {
extern const LinearKernels kLinearKernels;
}

}  // namespace nibble::cpu
