// Input projections and head of several decode rows: out[m][n] = x[m][2048] W[n][2048]^T; up to
// eight rows take the norm in.
//
// Persistent, one CTA per SM: a ring of panels of 16 weight rows in shared memory, one bulk copy a
// row; 16 warps share out K, tokens are the columns of mma.m16n8k16 and stay in registers. Rows lie
// 16 (BF16) or 64 (FP8) bytes apart from a multiple of 128, so that the 8 rows of an operand meet
// different banks.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/segments.cuh"

namespace nibble::cuda {
namespace {

constexpr int kPanel = 16, kWarps = 16, kSlice = kHidden / kWarps, kSums = 20;
constexpr int kWide = 2 * kHidden + 16, kNarrow = kHidden + 64;  // row strides
constexpr int kSlotBytes = kPanel * kWide;

constexpr int slots_for(int groups) {
  return groups == 1 ? 3 : 2;
}
constexpr size_t partial_floats(int groups) {
  return size_t{2} * kWarps * 8 * groups * kSums;
}
constexpr size_t shared_bytes(int groups, bool norm) {
  return size_t(slots_for(groups)) * kSlotBytes +
         (partial_floats(groups) + (norm ? kHidden : 0)) * sizeof(float);
}

/// The warp's slice of a panel times its columns. Vector q of a lane is activations 16 t + 8 (q %
/// 2) of the 64 from 64 (q / 2) on.
template <int kGroups>
__device__ __forceinline__ void multiply(const uint8_t* panel, bool is_fp8,
                                         const uint4 (&b)[kGroups][4], float (&acc)[kGroups][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    uint4 low[2], high[2];
    if (is_fp8) {
      const uint8_t* from = panel + g * kNarrow + warp * kSlice + i * 64 + t * 16;
      const uint4 l = *reinterpret_cast<const uint4*>(from);
      const uint4 h = *reinterpret_cast<const uint4*>(from + 8 * kNarrow);
      decode_fp8x4(l.x, low[0].x, low[0].y);
      decode_fp8x4(l.y, low[0].z, low[0].w);
      decode_fp8x4(l.z, low[1].x, low[1].y);
      decode_fp8x4(l.w, low[1].z, low[1].w);
      decode_fp8x4(h.x, high[0].x, high[0].y);
      decode_fp8x4(h.y, high[0].z, high[0].w);
      decode_fp8x4(h.z, high[1].x, high[1].y);
      decode_fp8x4(h.w, high[1].z, high[1].w);
    } else {
      const uint8_t* from = panel + g * kWide + (warp * kSlice + i * 64 + t * 16) * 2;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        low[j] = *reinterpret_cast<const uint4*>(from + j * 16);
        high[j] = *reinterpret_cast<const uint4*>(from + 8 * kWide + j * 16);
      }
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        const uint4& x = b[n][2 * i + j];
        mma_bf16(acc[n], low[j].x, high[j].x, low[j].y, high[j].y, x.x, x.y);
        mma_bf16(acc[n], low[j].z, high[j].z, low[j].w, high[j].w, x.z, x.w);
      }
    }
  }
}

/// Where vector q of a lane's columns begins.
__device__ __forceinline__ int k_of(int q) {
  return int(threadIdx.x) / 32 * kSlice + q / 2 * 64 + int(threadIdx.x) % 4 * 16 + q % 2 * 8;
}

/// The lane's columns of rms_norm(h), rows < 8; norm: the weights. All threads of the CTA.
__device__ __forceinline__ void norm_columns(const RowsArgs& args, const float* norm,
                                             uint4 (&b)[4]) {
  __shared__ float squares[kWarps][8];
  const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float v[4][8] = {};
  float sum = 0;
  if (g < args.m) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const float4* from = reinterpret_cast<const float4*>(args.h + g * kHidden + k_of(q));
      *reinterpret_cast<float4*>(v[q]) = from[0];
      *reinterpret_cast<float4*>(v[q] + 4) = from[1];
    }
  }
#pragma unroll
  for (int q = 0; q < 4; ++q) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum += v[q][i] * v[q][i];
  }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  if (t == 0) squares[warp][g] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) total += squares[w][g];
  const float r = rsqrtf(total / kHidden + args.eps);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = v[q][i] * r * (1.0f + norm[k_of(q) + i]);
    b[q] = make_uint4(pack_bf16(y[0], y[1]), pack_bf16(y[2], y[3]), pack_bf16(y[4], y[5]),
                      pack_bf16(y[6], y[7]));
  }
}

template <int kGroups, bool kNorm>
__global__ void __launch_bounds__(kWarps * 32, 1)
    rows_kernel(const __grid_constant__ RowsArgs args) {
  constexpr int kSlots = kGroups == 1 ? 3 : 2, kColumns = 8 * kGroups;
  extern __shared__ __align__(128) uint8_t ring[];
  float(*partial)[kWarps][kColumns][kSums] =
      reinterpret_cast<float(*)[kWarps][kColumns][kSums]>(ring + kSlots * kSlotBytes);
  float* norm = reinterpret_cast<float*>(partial + 2);
  __shared__ uint64_t full[kSlots];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint64_t policy = evict_first_policy();
  auto issue = [&](int slot, int panel) {
    if (panel * kPanel >= args.rows) return;
    const RowPlace place = find_row(args.segments, panel * kPanel + warp);
    barrier_expect(&full[slot], place.bytes);
    bulk_load(ring + slot * kSlotBytes + warp * (place.bytes > kHidden ? kWide : kNarrow),
              place.data, place.bytes, &full[slot], policy);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < kSlots; ++s) barrier_init(&full[s], kPanel);
    barrier_init_fence();
  }
  __syncthreads();
  if (lane == 0) {
    // One panel at a time: what the kernel before still reads must not queue up behind weights.
    for (int s = 0; s < kSlots; ++s) {
      if (s > 0) barrier_wait(&full[s - 1], 0);
      issue(s, blockIdx.x + s * gridDim.x);
    }
  }
  __syncwarp();
  if constexpr (kNorm) {
    reinterpret_cast<float4*>(norm)[threadIdx.x] =
        reinterpret_cast<const float4*>(args.norm_weight)[threadIdx.x];
  }
  grid_release();
  grid_wait();
  uint4 b[kGroups][4];
  if constexpr (kNorm) {
    norm_columns(args, norm, b[0]);
  } else {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int64_t row = n * 8 + g;
        b[n][q] = row < args.m ? *reinterpret_cast<const uint4*>(static_cast<const bf16*>(args.x) +
                                                                 row * kHidden + k_of(q))
                               : make_uint4(0, 0, 0, 0);
      }
    }
  }
  const int r = threadIdx.x % kPanel, token = threadIdx.x / kPanel;
  for (int i = 0, panel = blockIdx.x; panel * kPanel < args.rows; ++i, panel += gridDim.x) {
    const int slot = i % kSlots;
    const RowPlace place = find_row(args.segments, panel * kPanel);
    float acc[kGroups][4] = {};
    barrier_wait(&full[slot], i / kSlots & 1);
    multiply<kGroups>(ring + slot * kSlotBytes, place.bytes == kHidden, b, acc);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        partial[i % 2][warp][n * 8 + 2 * t + v % 2][g + v / 2 * 8] = acc[n][v];
      }
    }
    __syncthreads();
    if (lane == 0) issue(slot, panel + kSlots * gridDim.x);
    if (token < args.m) {
      float y = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) y += partial[i % 2][w][token][r];
      args.out[token * args.out_stride + panel * kPanel + r] = y * place.scale;
    }
    __syncwarp();
  }
}

using RowsKernel = void (*)(RowsArgs);
RowsKernel kernel_for(int groups, bool norm) {
  if (norm) return rows_kernel<1, true>;
  return groups == 1   ? rows_kernel<1, false>
         : groups == 2 ? rows_kernel<2, false>
                       : rows_kernel<4, false>;
}

}  // namespace

void prepare_decode_rows() {
  const auto prepare = [](int groups, bool norm) {
    auto* kernel = kernel_for(groups, norm);
    allow_shared(kernel, shared_bytes(groups, norm));
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  };
  prepare(1, true);
  for (const int groups : {1, 2, 4}) prepare(groups, false);
}

void decode_rows(const RowsArgs& args, Stream stream) {
  const int groups = args.m <= 8 ? 1 : args.m <= 16 ? 2 : 4;
  const bool norm = args.x == nullptr;
  launch("decode_rows", kernel_for(groups, norm), dim3(unsigned(sm_count())), kWarps * 32,
         shared_bytes(groups, norm), stream, true, args);
}

}  // namespace nibble::cuda
