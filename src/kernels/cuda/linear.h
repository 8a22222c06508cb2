// Dense products on CUDA and the packing of weights: arguments, feasibility, launchers.
//
// Packed layouts: BF16 and FP8 row-major as stored; NVFP4 in units or plain rows (nvfp4.cuh).
// Candidates of a product, in order of preference: linear_mma (few rows), a GEMM on BF16 weights
// (device/cuda, after dequantize where the weights are not BF16), linear_generic (everything else).
#pragma once

#include "kernels/cuda/args.h"

namespace nibble::cuda {

struct Weight {
  Format format;
  const void* data;
  int64_t n, k;
  float scale;  // multiplies the accumulator
};

struct LinearArgs {
  const void* x;  // [m][k], x_type
  Element x_type;
  Weight weight;
  void* out;  // [m][n], row stride out_stride
  Element out_type;
  int64_t out_stride;
  bool accumulate;  // f32 only
  int64_t m;
};

size_t packed_bytes(Format format, int64_t n, int64_t k);

/// Any shape, any type: a warp per output column, f32 products.
void linear_generic(const LinearArgs& args, Stream stream);

inline constexpr int64_t kMaxMmaRows = 32;
/// BF16 rows, m <= kMaxMmaRows, k % 32 == 0, NVFP4 in units only.
bool can_linear_mma(const LinearArgs& args);
/// With `chained` the launch may overlap the kernel before it (common.cuh, PDL).
void linear_mma(const LinearArgs& args, Stream stream, bool chained = false);

/// Rows [first, first + count) of an FP8 or NVFP4 matrix as BF16 [count][k], exact, without the
/// tensor scale.
void dequantize(const Weight& weight, int64_t first, int64_t count, void* out, Stream stream);

/// NVFP4 as stored ([n][k / 2] codes, [n][k / 16] scales, device memory) to its packed layout.
void pack_nvfp4(const void* codes, const void* scales, int64_t n, int64_t k, void* out,
                Stream stream);
/// The same for an expert's gate and up, [intermediate][k] each.
struct GateUpSource {
  const void* gate_codes;
  const void* gate_scales;
  const void* up_codes;
  const void* up_scales;
};
void pack_gate_up_nvfp4(const GateUpSource& source, int64_t intermediate, int64_t k, void* out,
                        Stream stream);

}  // namespace nibble::cuda
