// Tools of every CUDA kernel file: launches, vector loads, barriers, bulk copies, warp sums, number
// formats.
//
// Device side only; nothing here knows a model. PDL (programmatic dependent launch): a kernel
// launched with it may start before the one before it has ended, and must call grid_wait() before
// it reads what earlier kernels wrote. EVERY kernel of a PDL chain must execute grid_wait(), or
// order is lost two kernels on.
#pragma once

#include "kernels/cuda/args.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

namespace nibble::cuda {

using bf16 = __nv_bfloat16;

// ---------------------------------------------------------------- host

/// A failed launch is our bug or a lost device: say what and stop.
inline void check_launch(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "CUDA launch of %s: %s\n", what, cudaGetErrorString(status));
  std::abort();
}

template <typename... KernelArgs, typename... Args>
void launch(const char* name, void (*kernel)(KernelArgs...), dim3 grid, int threads,
            size_t shared_bytes, Stream stream, bool pdl, Args... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute[1];
  attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute[0].val.programmaticStreamSerializationAllowed = 1;
  config.attrs = attribute;
  config.numAttrs = pdl ? 1 : 0;
  check_launch(cudaLaunchKernelEx(&config, kernel, KernelArgs(args)...), name);
}

template <typename Kernel>
void allow_shared(Kernel* kernel, size_t bytes) {
  check_launch(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(bytes)),
               "shared memory attribute");
}

inline int sm_count() {
  static const int count = [] {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value;
  }();
  return count;
}

inline unsigned ceil_div(int64_t a, int64_t b) {
  return static_cast<unsigned>((a + b - 1) / b);
}

// ---------------------------------------------------------------- device: memory

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}
/// 16 bytes that are read once: past L1.
__device__ __forceinline__ uint4 load_stream(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}
__device__ __forceinline__ uint2 load_stream8(const void* p) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p));
  return v;
}
/// Loads that do not trust L1: data of an earlier grid read before grid_wait().
__device__ __forceinline__ float load_l2(const float* p) {
  float v;
  asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(p));
  return v;
}
__device__ __forceinline__ float4 load_l2_vector(const float* p) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p));
  return v;
}

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int parity) {
  asm volatile(
      "{\n .reg .pred p;\n"
      "WAIT:\n mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      " @p bra DONE;\n bra WAIT;\n"
      "DONE:\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// Bulk copy global -> shared, 16-byte aligned; completes on `barrier`, whose expect was posted.
__device__ __forceinline__ void bulk_load(void* to, const void* from, int bytes, uint64_t* barrier,
                                          uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void bulk_load(void* to, const void* from, int bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}
__device__ __forceinline__ void prefetch_l2(const void* from, int bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
/// Pulls `bytes` of a later kernel's weights into L2, dealt out over the grid in 8 KiB pieces.
__device__ __forceinline__ void prefetch_later(const uint8_t* later, size_t bytes) {
  constexpr size_t kPiece = 8192;
  const size_t me = size_t(threadIdx.x) * gridDim.x + blockIdx.x;
  for (size_t i = me * kPiece; i + kPiece <= bytes; i += size_t(gridDim.x) * blockDim.x * kPiece) {
    prefetch_l2(later + i, int(kPiece));
  }
}

/// Waits until the grids before this one have finished and their writes are visible; nothing
/// without PDL.
__device__ __forceinline__ void grid_wait() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
/// Lets the next grid start once every CTA has come here; nothing without PDL.
__device__ __forceinline__ void grid_release() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// ---------------------------------------------------------------- device: numbers

__device__ __forceinline__ float bf16_low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ float round_bf16(float x) {
  return __bfloat162float(__float2bfloat16(x));
}
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}
__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}
__device__ __forceinline__ float silu(float x) {
  return x / (1.0f + expf(-x));
}
__device__ __forceinline__ float softplus(float x) {
  return x > 20.0f ? x : log1pf(expf(x));
}

__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
  return __bfloat162float(x);
}
__device__ __forceinline__ float to_float(__nv_fp8_e4m3 x) {
  return float(x);
}
__device__ __forceinline__ void store_as(float* p, float x) {
  *p = x;
}
__device__ __forceinline__ void store_as(bf16* p, float x) {
  *p = __float2bfloat16(x);
}
/// Saturating, as formats::e4m3_from_f32_saturating.
__device__ __forceinline__ void store_as(__nv_fp8_e4m3* p, float x) {
  p->__x = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ float load_element(const void* p, Element type, size_t i) {
  if (type == Element::f32) return static_cast<const float*>(p)[i];
  if (type == Element::bf16) return to_float(static_cast<const bf16*>(p)[i]);
  return to_float(static_cast<const __nv_fp8_e4m3*>(p)[i]);
}

__device__ __forceinline__ uint32_t multiply_bf16(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
/// 4 signed E4M3 bytes -> 2 pairs in BF16, exact: the bits moved into place, times 2^120.
__device__ __forceinline__ uint32_t decode_fp8x2(uint32_t high_bytes) {
  constexpr uint32_t kTwoTo120 = 0x7B807B80u;
  return multiply_bf16((high_bytes >> 4 & 0x07f007f0u) | (high_bytes & 0x80008000u), kTwoTo120);
}
__device__ __forceinline__ void decode_fp8x4(uint32_t bytes, uint32_t& low, uint32_t& high) {
  low = decode_fp8x2(__byte_perm(bytes, 0, 0x1404));
  high = decode_fp8x2(__byte_perm(bytes, 0, 0x3424));
}
/// The same in F16: one instruction a pair, exact.
__device__ __forceinline__ void decode_fp8x4_f16(uint32_t bytes, uint32_t& low, uint32_t& high) {
  asm("{\n .reg .b16 l, h;\n mov.b32 {l, h}, %2;\n"
      " cvt.rn.f16x2.e4m3x2 %0, l;\n cvt.rn.f16x2.e4m3x2 %1, h;\n}"
      : "=r"(low), "=r"(high)
      : "r"(bytes));
}
/// 2^s with which values up to `top` in magnitude fit F16 (below 2^15): BF16 values so scaled lose
/// nothing above 2^-38 of `top`.
__device__ __forceinline__ float f16_scale(float top) {
  const int exponent = int(__float_as_uint(top) >> 23);  // biased; top >= 0
  const int scaled = min(max(127 + 14 + 127 - exponent, 1), 240);
  return __uint_as_float(uint32_t(scaled) << 23);
}
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
  const __half2 v = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&v);
}

// ---------------------------------------------------------------- device: sums and products

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x += __shfl_xor_sync(~0u, x, offset);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) x = fmaxf(x, __shfl_xor_sync(~0u, x, offset));
  return x;
}
/// Sum over the CTA (any multiple of 32 threads up to 1024), the same in every thread.
__device__ __forceinline__ float block_sum(float x) {
  __shared__ float partial[32];
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0;
  for (unsigned i = 0; i < blockDim.x / 32; ++i) total += partial[i];
  return total;
}

/// D[16,8] += A[16,16] * B[16,8] on BF16, f32 accumulators.
__device__ __forceinline__ void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                         uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// The same on F16.
__device__ __forceinline__ void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                        uint32_t a3, uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// 16 rows (g: low, g + 8: high) of 16 E4M3 bytes a lane times x in F16, two registers a word of
/// four bytes; even and odd words in two chains.
__device__ __forceinline__ void multiply_fp8(const uint4& low, const uint4& high, const uint4* x,
                                             float (&acc)[2][4]) {
  const uint32_t* low_words = &low.x;
  const uint32_t* high_words = &high.x;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    uint32_t a0, a1, a2, a3;
    decode_fp8x4_f16(low_words[w], a0, a2);
    decode_fp8x4_f16(high_words[w], a1, a3);
    const uint32_t* column = &x[w / 2].x + w % 2 * 2;
    mma_f16(acc[w % 2], a0, a1, a2, a3, column[0], column[1]);
  }
}

}  // namespace nibble::cuda
