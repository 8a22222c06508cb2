// Rows to E4M3: a warp per row, the first 2048 values kept in registers between the maximum and the
// rounding, the others read again.
#include "kernels/cuda/fp8_rows.cuh"
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/nvfp4.cuh"

namespace nibble::cuda {
namespace {

constexpr int kPiece = 8, kHeld = 8, kStride = 32 * kPiece;  // values a load, loads held

__device__ __forceinline__ uint32_t pair_at(const bf16* x, int64_t k, int64_t at) {
  const float low = at < k ? to_float(x[at]) : 0.0f;
  return pack_bf16(low, at + 1 < k ? to_float(x[at + 1]) : 0.0f);
}

/// Values at .. at + 7 of a row; zeros behind its end.
__device__ __forceinline__ uint4 load_piece(const bf16* x, int64_t k, int64_t at) {
  if (at >= k) return make_uint4(0, 0, 0, 0);
  if (k % kPiece == 0) return *reinterpret_cast<const uint4*>(x + at);
  return make_uint4(pair_at(x, k, at), pair_at(x, k, at + 2), pair_at(x, k, at + 4),
                    pair_at(x, k, at + 6));
}

__device__ __forceinline__ void store_piece(uint8_t* out, int64_t k, int64_t at, const uint4& x,
                                            float scale) {
  const uint2 bytes = pack_fp8x8(x, fp8_inverse(scale));
  if (k % kPiece == 0) {
    *reinterpret_cast<uint2*>(out + at) = bytes;
    return;
  }
  for (int i = 0; i < kPiece && at + i < k; ++i) {
    out[at + i] = uint8_t((i < 4 ? bytes.x : bytes.y) >> (i % 4 * 8));
  }
}
__device__ __forceinline__ void store_piece(bf16* out, int64_t k, int64_t at, const uint4& x,
                                            float scale) {
  const uint2 bytes = pack_fp8x8(x, fp8_inverse(scale));
  for (int i = 0; i < kPiece && at + i < k; ++i) {
    out[at + i] =
        __float2bfloat16(e4m3_value(uint8_t((i < 4 ? bytes.x : bytes.y) >> (i % 4 * 8))) * scale);
  }
}

template <typename Out>
__global__ void __launch_bounds__(256) rows_kernel(Fp8RowsArgs args) {
  const int64_t row = blockIdx.x * int64_t{8} + threadIdx.x / 32, k = args.k;
  if (row >= args.rows) return;
  const int lane = threadIdx.x % 32;
  const bf16* x = static_cast<const bf16*>(args.x) + row * k;
  uint4 held[kHeld];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) held[i] = load_piece(x, k, i * kStride + lane * kPiece);
  float top = 0;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) top = fmaxf(top, largest_bf16(held[i]));
#pragma unroll 4
  for (int64_t at = kHeld * kStride + lane * kPiece; at < k; at += kStride) {
    top = fmaxf(top, largest_bf16(load_piece(x, k, at)));
  }
  const float scale = fp8_scale(warp_max(top));
  Out* out = static_cast<Out*>(args.out) + row * k;
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int64_t at = i * kStride + lane * kPiece;
    if (at < k) store_piece(out, k, at, held[i], scale);
  }
#pragma unroll 4
  for (int64_t at = kHeld * kStride + lane * kPiece; at < k; at += kStride) {
    store_piece(out, k, at, load_piece(x, k, at), scale);
  }
  if (sizeof(Out) == 1 && lane == 0) args.scales[row] = scale;
}

template <typename Out>
void launch_rows(const Fp8RowsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  launch("fp8_rows", rows_kernel<Out>, dim3(ceil_div(args.rows, 8)), 256, 0, stream, false, args);
}

/// Thread = 16 values of one row.
__global__ void __launch_bounds__(256)
    nvfp4_rows_kernel(Weight weight, int64_t first, int64_t count, uint8_t* out) {
  const int64_t i = blockIdx.x * int64_t{256} + threadIdx.x, per_row = weight.k / 16;
  if (i >= count * per_row) return;
  const int64_t row = i / per_row, k = i % per_row * 16;
  uint32_t words[4];
#pragma unroll
  for (int word = 0; word < 4; ++word) {
    float x[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      x[j] = weight_element(weight.format, weight.data, weight.n, weight.k, first + row,
                            k + word * 4 + j) /
             kFp8Nvfp4Factor;
    }
    words[word] = pack_fp8x4(x[0], x[1], x[2], x[3]);
  }
  *reinterpret_cast<uint4*>(out + row * weight.k + k) =
      make_uint4(words[0], words[1], words[2], words[3]);
}

}  // namespace

void fp8_rows(const Fp8RowsArgs& args, Stream stream) {
  launch_rows<uint8_t>(args, stream);
}

void fp8_round_rows(const Fp8RowsArgs& args, Stream stream) {
  launch_rows<bf16>(args, stream);
}

void fp8_nvfp4_rows(const Weight& weight, int64_t first, int64_t count, void* out, Stream stream) {
  launch("fp8_nvfp4_rows", nvfp4_rows_kernel, dim3(ceil_div(count * (weight.k / 16), 256)), 256, 0,
         stream, false, weight, first, count, static_cast<uint8_t*>(out));
}

}  // namespace nibble::cuda
