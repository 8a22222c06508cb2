// W4A4 products of large steps: NVFP4 weights in units times activation rows rounded to NVFP4.
//
// Blackwell's block-scaled FP4 tensor cores (mma_fp4.cuh); elsewhere the same arithmetic without
// them, for checks. An activation row has a scale that is the smallest power of two with amax <=
// 6 * 448 * scale (amax 0: 1), blocks of 16 have E4M3 scales rn(amax / (6 * scale)), codes are
// rn(x / (block scale * scale)); there is no calibrated input scale.
#pragma once

#include "kernels/cuda/linear.h"
#include "kernels/cuda/moe.h"

namespace nibble::cuda {

/// Rounded rows in the order that the products read (w4a4.cu).
struct Fp4Rows {
  uint8_t* codes;  // [rows][k / 2]
  uint8_t* scales;  // [rows][k / 16]
  float* row_scales;
};
/// The three arrays behind each other from `base` on, 16-byte aligned: less than a byte a value.
Fp4Rows fp4_rows_at(void* base, int64_t rows, int64_t k);

/// x: bf16 [rows][k], k % 64 == 0.
void quantize_fp4_rows(const void* x, int64_t rows, int64_t k, const Fp4Rows& to, Stream stream);
/// The rounded values as BF16 (exact), for products of other formats and shapes; k % 16 == 0. In
/// place where out == x.
void round_fp4_rows(const void* x, int64_t rows, int64_t k, void* out, Stream stream);

/// NVFP4 in units. x of the arguments is not read.
bool can_w4a4(const Weight& weight);
void linear_w4a4(const LinearArgs& args, const Fp4Rows& x, Stream stream);
/// gate_up: BF16 out; down: f32 out. `slots` pairs a row; args.shared is not read.
bool can_moe_w4a4(const Bank& bank);
void moe_gate_up_w4a4(const MoeArgs& args, const Fp4Rows& x, Stream stream);
void moe_down_w4a4(const MoeArgs& args, const Fp4Rows& x, Stream stream);

}  // namespace nibble::cuda
