// The mixer's output projection of one to eight decode rows, and what moves on behind the mixer.
//
// CTA = 16 output rows, 16 warps share out K. A whole weight row is one bulk copy, asked for before
// grid_wait(); rows are 64 bytes apart from a multiple of 128, so that the 8 rows of an mma operand
// meet different banks. FP8 weights become F16 in one instruction a pair; activations are scaled by
// a power of two per warp and column so that F16 holds them as BF16 does.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"

namespace nibble::cuda {
namespace {

constexpr int kRows = 16, kWarps = 16, kSlice = kMixer / kWarps, kColumns = kOutProjRows;
constexpr int kVectors = kSlice / 8;  // of 8 activations
constexpr int kStages = 4;  // pieces of the weight rows

template <Format kFormat>
constexpr int kRowBytes = kFormat == Format::bf16 ? 2 * kMixer : kMixer;
template <Format kFormat>
constexpr int kRowStride = kRowBytes<kFormat> + 64;

/// Threads of the grid share out eight channels at a time: the columns move on by one.
__device__ __forceinline__ void advance_windows(const WindowArgs& args, int thread, int threads) {
  constexpr int kVectorsPerRow = 8192 / 8;
  if (args.window == nullptr) return;
  for (int i = thread; i < args.step.sequences * kVectorsPerRow; i += threads) {
    const int sequence = i / kVectorsPerRow, v = i % kVectorsPerRow;
    const Sequence s = args.step.sequence[sequence];
    char* base = static_cast<char*>(args.window);
    const float4* newest =
        reinterpret_cast<const float4*>(args.projection + sequence * args.projection_stride) +
        2 * v;
    const float4 low = newest[0], high = newest[1];
    uint4 second = make_uint4(0, 0, 0, 0), third = second;
    if (s.read_slot >= 0) {
      const uint4* from =
          reinterpret_cast<const uint4*>(base + s.read_slot * args.window_stride_bytes) + v;
      second = from[kVectorsPerRow];
      third = from[2 * kVectorsPerRow];
    }
    uint4* to = reinterpret_cast<uint4*>(base + s.write_slot * args.window_stride_bytes) + v;
    to[0] = second;
    to[kVectorsPerRow] = third;
    to[2 * kVectorsPerRow] = make_uint4(pack_bf16(low.x, low.y), pack_bf16(low.z, low.w),
                                        pack_bf16(high.x, high.y), pack_bf16(high.z, high.w));
  }
}

/// 8 activations (vector v of the warp's slice) of one row as BF16 pairs.
__device__ __forceinline__ uint4 load_x(const OutProjArgs& args, int row, int v) {
  const int at = row * (kMixer / 8) + threadIdx.x / 32 * kVectors + v;
  if (args.x != nullptr) return static_cast<const uint4*>(args.x)[at];
  // Rounded to BF16 as a linear input must be; a head is 16 vectors.
  const float4* gated = reinterpret_cast<const float4*>(args.gated) + at * 2;
  const float4 low = gated[0], high = gated[1];
  const float4 q = reinterpret_cast<const float4*>(args.squares)[at / 16];
  const float r = rsqrtf((q.x + q.y + q.z + q.w) / 128 + args.eps);
  return make_uint4(pack_bf16(low.x * r, low.y * r), pack_bf16(low.z * r, low.w * r),
                    pack_bf16(high.x * r, high.y * r), pack_bf16(high.z * r, high.w * r));
}

/// The lane's B registers become F16, scaled; returns what products of column lane / 4 must be
/// multiplied with.
__device__ __forceinline__ float to_f16(uint4 (&b)[8]) {
  float top = 0;
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    const uint32_t* words = &b[q].x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      top = fmaxf(top, fmaxf(fabsf(bf16_low(words[i])), fabsf(bf16_high(words[i]))));
    }
  }
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
  top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
  const float scale = f16_scale(top);
#pragma unroll
  for (int q = 0; q < 8; ++q) {
    uint32_t* words = &b[q].x;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[i] = pack_f16(bf16_low(words[i]) * scale, bf16_high(words[i]) * scale);
    }
  }
  return 1.0f / scale;
}

/// The warp's slice of the 16 rows times its columns.
template <Format kFormat>
__device__ __forceinline__ void multiply(const uint8_t* rows, const uint4 (&b)[8],
                                         float (&acc)[2][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  constexpr int kStride = kRowStride<kFormat>, kSliceBytes = kRowBytes<kFormat> / kWarps;
  const uint8_t* from = rows + g * kStride + warp * kSliceBytes + t * 16;
#pragma unroll
  for (int i = 0; i < kSliceBytes / 64; ++i) {
    const uint4 low = *reinterpret_cast<const uint4*>(from + i * 64);
    const uint4 high = *reinterpret_cast<const uint4*>(from + 8 * kStride + i * 64);
    if constexpr (kFormat == Format::bf16) {
      mma_bf16(acc[0], low.x, high.x, low.y, high.y, b[i].x, b[i].y);
      mma_bf16(acc[1], low.z, high.z, low.w, high.w, b[i].z, b[i].w);
    } else {
      multiply_fp8(low, high, b + 2 * i, acc);
    }
  }
}

/// kOne: one row, its slice is brought in by the whole warp.
template <Format kFormat, bool kOne>
__global__ void __launch_bounds__(kWarps * 32, 1) out_proj_kernel(OutProjArgs args) {
  constexpr int kCount = kOne ? 1 : kColumns;
  extern __shared__ __align__(128) uint8_t rows[];
  __shared__ uint4 x[kOne ? kWarps : 1][kVectors];
  __shared__ float partial[kWarps][kCount][kRows];
  __shared__ uint64_t full[kStages];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) barrier_init(&full[s], kRows);
    barrier_init_fence();
  }
  __syncthreads();
  grid_release();
  if (lane == 0) {
    constexpr int kBytes = kRowBytes<kFormat> / kStages;
    const uint8_t* from = static_cast<const uint8_t*>(args.weight) +
                          size_t(blockIdx.x * kRows + warp) * kRowBytes<kFormat>;
    // One piece at a time: what the mixer still reads must not queue up behind weights.
    for (int s = 0; s < kStages; ++s) {
      if (s > 0) barrier_wait(&full[s - 1], 0);
      barrier_expect(&full[s], kBytes);
      bulk_load(rows + warp * kRowStride<kFormat> + s * kBytes, from + s * kBytes, kBytes, &full[s],
                evict_first_policy());
    }
  }
  __syncwarp();
  grid_wait();
  const int out_row = threadIdx.x / kRows;
  float* out = args.h + out_row * kHidden + blockIdx.x * kRows + threadIdx.x % kRows;
  const float residual = out_row < args.rows ? *out : 0.0f;
  // Vector q of the lane: the k that the lane's 16-byte weight loads hold, in order.
  const auto vector_of = [&](int q) {
    return kFormat == Format::bf16 ? q * 4 + t : q / 2 * 8 + t * 2 + q % 2;
  };
  uint4 b[8];
  if constexpr (kOne) {
    x[warp][lane] = load_x(args, 0, lane);
    __syncwarp();
#pragma unroll
    for (int q = 0; q < 8; ++q) b[q] = g == 0 ? x[warp][vector_of(q)] : make_uint4(0, 0, 0, 0);
  } else {
#pragma unroll
    for (int q = 0; q < 8; ++q) {
      b[q] = g < args.rows ? load_x(args, g, vector_of(q)) : make_uint4(0, 0, 0, 0);
    }
  }
  advance_windows(args.window, threadIdx.x * gridDim.x + blockIdx.x, gridDim.x * blockDim.x);
  float factor = 1.0f;
  if constexpr (kFormat == Format::fp8) factor = to_f16(b);
  float acc[2][4] = {};
  for (int s = 0; s < kStages; ++s) barrier_wait(&full[s], 0);
  multiply<kFormat>(rows, b, acc);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float f = __shfl_sync(~0u, factor, (2 * t + i) * 4);
    if (2 * t + i >= kCount) continue;
    partial[warp][2 * t + i][g] = (acc[0][i] + acc[1][i]) * f;
    partial[warp][2 * t + i][g + 8] = (acc[0][i + 2] + acc[1][i + 2]) * f;
  }
  __syncthreads();
  if (out_row >= args.rows) return;
  float y = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) y += partial[w][out_row][threadIdx.x % kRows];
  *out = residual + y * args.scale;
}

/// Thread = eight values of one row.
__global__ void __launch_bounds__(256) gated_kernel(GatedArgs args) {
  grid_wait();
  grid_release();
  const int i = blockIdx.x * 256 + threadIdx.x;
  if (i < args.rows * (kMixer / 8)) {
    const float4 q = reinterpret_cast<const float4*>(args.squares)[i / 16];
    const float r = rsqrtf((q.x + q.y + q.z + q.w) / 128 + args.eps);
    const float4 low = reinterpret_cast<const float4*>(args.gated)[2 * i];
    const float4 high = reinterpret_cast<const float4*>(args.gated)[2 * i + 1];
    static_cast<uint4*>(args.out)[i] =
        make_uint4(pack_bf16(low.x * r, low.y * r), pack_bf16(low.z * r, low.w * r),
                   pack_bf16(high.x * r, high.y * r), pack_bf16(high.z * r, high.w * r));
  }
  advance_windows(args.window, i, gridDim.x * 256);
}

using OutProjKernel = void (*)(OutProjArgs);
OutProjKernel kernel_for(Format format, bool one) {
  if (format == Format::bf16) {
    return one ? out_proj_kernel<Format::bf16, true> : out_proj_kernel<Format::bf16, false>;
  }
  return one ? out_proj_kernel<Format::fp8, true> : out_proj_kernel<Format::fp8, false>;
}
size_t shared_bytes(Format format) {
  return size_t{kRows} *
         (format == Format::bf16 ? kRowStride<Format::bf16> : kRowStride<Format::fp8>);
}

}  // namespace

void prepare_decode_out() {
  for (const bool one : {false, true}) {
    for (const Format format : {Format::bf16, Format::fp8}) {
      allow_shared(kernel_for(format, one), shared_bytes(format));
      cudaFuncSetAttribute(kernel_for(format, one), cudaFuncAttributePreferredSharedMemoryCarveout,
                           100);
    }
  }
  cudaFuncSetAttribute(gated_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
}

void decode_out_proj(const OutProjArgs& args, Stream stream) {
  launch("decode_out_proj", kernel_for(args.format, args.rows == 1), dim3(kHidden / kRows),
         kWarps * 32, shared_bytes(args.format), stream, true, args);
}

void decode_gated(const GatedArgs& args, Stream stream) {
  launch("decode_gated", gated_kernel, dim3(ceil_div(args.rows * (kMixer / 8), 256)), 256, 0,
         stream, true, args);
}

}  // namespace nibble::cuda
