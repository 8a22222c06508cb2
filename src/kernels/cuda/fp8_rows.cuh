// E4M3 rows on the device: the scale of a row and the bytes.
//
// A row's scale is the smallest power of two with which its largest magnitude fits 448, so a byte
// times its scale is exact in BF16.
#pragma once

#include "kernels/cuda/common.cuh"

namespace nibble::cuda {

/// The smallest power of two with top <= limit times it; 1 for 0.
__device__ __forceinline__ float power_scale(float top, float limit) {
  constexpr uint32_t kMantissa = 0x7fffff;
  const uint32_t bits = __float_as_uint(top), of_limit = __float_as_uint(limit);
  if (bits == 0) return 1.0f;
  const int exponent = int(bits >> 23) - int(of_limit >> 23) + 127 +
                       ((bits & kMantissa) > (of_limit & kMantissa) ? 1 : 0);
  return __uint_as_float(uint32_t(max(exponent, 1)) << 23);
}
__device__ __forceinline__ float fp8_scale(float top) {
  return power_scale(top, 448.0f);
}
/// 1 / scale, exact.
__device__ __forceinline__ float fp8_inverse(float scale) {
  return __uint_as_float((254u << 23) - __float_as_uint(scale));
}
/// Two values as bytes, the first in the low one; nearest even, what is too large becomes 448.
__device__ __forceinline__ uint32_t pack_fp8x2(float low, float high) {
  return __nv_cvt_float2_to_fp8x2(make_float2(low, high), __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ uint32_t pack_fp8x4(float a, float b, float c, float d) {
  return pack_fp8x2(a, b) | pack_fp8x2(c, d) << 16;
}
/// Eight BF16 values times `inverse` as bytes.
__device__ __forceinline__ uint2 pack_fp8x8(const uint4& x, float inverse) {
  return make_uint2(pack_fp8x4(bf16_low(x.x) * inverse, bf16_high(x.x) * inverse,
                               bf16_low(x.y) * inverse, bf16_high(x.y) * inverse),
                    pack_fp8x4(bf16_low(x.z) * inverse, bf16_high(x.z) * inverse,
                               bf16_low(x.w) * inverse, bf16_high(x.w) * inverse));
}
__device__ __forceinline__ float largest_bf16(uint32_t pair) {
  return fmaxf(fabsf(bf16_low(pair)), fabsf(bf16_high(pair)));
}
__device__ __forceinline__ float largest_bf16(const uint4& x) {
  return fmaxf(fmaxf(largest_bf16(x.x), largest_bf16(x.y)),
               fmaxf(largest_bf16(x.z), largest_bf16(x.w)));
}
/// Maximum over the CTA (any multiple of 32 threads up to 1024), the same in every thread.
__device__ __forceinline__ float block_max(float x) {
  __shared__ float partial[32];
  x = warp_max(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float top = partial[0];
  for (unsigned i = 1; i < blockDim.x / 32; ++i) top = fmaxf(top, partial[i]);
  return top;
}

}  // namespace nibble::cuda
