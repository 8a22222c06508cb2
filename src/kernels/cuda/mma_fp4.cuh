// The block-scaled FP4 product of Blackwell's warps, and the same on older GPUs in plain
// arithmetic.
//
// mma.m16n8k64 with kind::mxf4nvf4 and scale_vec::4X (PTX ISA, "Matrix fragments for
// mma.m16n8k64"): of lane 4 g + t, a[0] and a[2] hold row g at k = 8 t .. + 7 and 32 + 8 t .. + 7,
// a[1] and a[3] row g + 8, b[0] and b[1] column g; eight E2M1 codes a register, lowest bits first.
// A scale register holds the E4M3 scales of k = 0, 16, 32, 48, lowest byte first: of row g + 8 * (t
// % 2) for A, of column g for B. d: rows g (d[0], d[1]) and g + 8, columns 2 t and 2 t + 1. sm_120a
// and sm_121a have the instruction; everywhere else the lanes exchange their registers, so that
// kernels on it can be checked there. Compiled, not run on a Blackwell GPU.
#pragma once

#include "kernels/cuda/nvfp4.cuh"

namespace nibble::cuda {

#if defined(__CUDA_ARCH_FEAT_SM120_ALL) || defined(__CUDA_ARCH_FEAT_SM121_ALL)

__device__ __forceinline__ void mma_fp4(float (&d)[4], const uint32_t (&a)[4], uint32_t a_scales,
                                        const uint32_t (&b)[2], uint32_t b_scales) {
  asm volatile(
      "mma.sync.aligned.kind::mxf4nvf4.block_scale.scale_vec::4X.m16n8k64.row.col.f32.e2m1.e2m1."
      "f32."
      "ue4m3 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3}, {%10}, {0, 0}, {%11}, {0, 0};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(a_scales),
        "r"(b_scales));
}

#else

/// Sum of eight products of codes.
__device__ __forceinline__ float dot_codes(uint32_t x, uint32_t y) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 32; i += 4) sum += e2m1_value(x >> i & 15) * e2m1_value(y >> i & 15);
  return sum;
}

/// Not inlined: a kernel has hundreds of these.
__device__ __noinline__ void mma_fp4(float (&d)[4], const uint32_t (&a)[4], uint32_t a_scales,
                                     const uint32_t (&b)[2], uint32_t b_scales) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int part = 0; part < 8; ++part) {  // k = 8 * part .. + 7
    const int from = part % 4, high = part / 4, shift = part / 2 * 8;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 2 * t + i % 2, second = i / 2;
      const uint32_t of_a = __shfl_sync(~0u, a[2 * high + second], 4 * g + from);
      const uint32_t of_b = __shfl_sync(~0u, b[high], 4 * column + from);
      const uint32_t a_scale = __shfl_sync(~0u, a_scales, 4 * g + second) >> shift & 0xFF;
      const uint32_t b_scale = __shfl_sync(~0u, b_scales, 4 * column) >> shift & 0xFF;
      d[i] = fmaf(e4m3_value(uint8_t(a_scale)) * e4m3_value(uint8_t(b_scale)),
                  dot_codes(of_a, of_b), d[i]);
    }
  }
}

#endif

}  // namespace nibble::cuda
