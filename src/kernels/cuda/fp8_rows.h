// Operands of FP8 products: BF16 rows and weights as E4M3 with scales (fp8_rows.cuh says which).
#pragma once

#include "kernels/cuda/linear.h"

namespace nibble::cuda {

struct Fp8RowsArgs {
  const void* x;  // bf16 [rows][k]
  int64_t rows, k;
  void* out;  // bytes [rows][k]; fp8_round_rows: bf16 [rows][k]
  float* scales;  // [rows]; fp8_round_rows: not used
};
/// Bytes and scales of each row.
void fp8_rows(const Fp8RowsArgs& args, Stream stream);
/// The same values as BF16: byte * scale; out may be x.
void fp8_round_rows(const Fp8RowsArgs& args, Stream stream);

/// Rows [first, first + count) of an NVFP4 matrix as bytes [count][k] of code * block scale / 8:
/// 6 * 448 / 8 = 336 fits. The tensor scale times 8 is left for the accumulator.
inline constexpr float kFp8Nvfp4Factor = 8.0f;
void fp8_nvfp4_rows(const Weight& weight, int64_t first, int64_t count, void* out, Stream stream);

}  // namespace nibble::cuda
