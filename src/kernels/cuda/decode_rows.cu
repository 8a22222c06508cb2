// Input projections and head of several decode rows: out[m][n] = x[m][2048] W[n][2048]^T.
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
constexpr size_t shared_bytes(int groups) {
  return size_t(slots_for(groups)) * kSlotBytes + partial_floats(groups) * sizeof(float);
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

template <int kGroups>
__global__ void __launch_bounds__(kWarps * 32, 1)
    rows_kernel(const __grid_constant__ RowsArgs args) {
  constexpr int kSlots = kGroups == 1 ? 3 : 2, kColumns = 8 * kGroups;
  extern __shared__ __align__(128) uint8_t ring[];
  float(*partial)[kWarps][kColumns][kSums] =
      reinterpret_cast<float(*)[kWarps][kColumns][kSums]>(ring + kSlots * kSlotBytes);
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
    for (int s = 0; s < kSlots; ++s) issue(s, blockIdx.x + s * gridDim.x);
  }
  __syncwarp();
  grid_release();
  grid_wait();
  uint4 b[kGroups][4];
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int64_t row = n * 8 + g;
      const int k = warp * kSlice + q / 2 * 64 + t * 16 + q % 2 * 8;
      b[n][q] = row < args.m ? *reinterpret_cast<const uint4*>(static_cast<const bf16*>(args.x) +
                                                               row * kHidden + k)
                             : make_uint4(0, 0, 0, 0);
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
RowsKernel kernel_for(int groups) {
  return groups == 1 ? rows_kernel<1> : groups == 2 ? rows_kernel<2> : rows_kernel<4>;
}

}  // namespace

void prepare_decode_rows() {
  for (const int groups : {1, 2, 4}) {
    allow_shared(kernel_for(groups), shared_bytes(groups));
    cudaFuncSetAttribute(kernel_for(groups), cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
}

void decode_rows(const RowsArgs& args, Stream stream) {
  const int groups = args.m <= 8 ? 1 : args.m <= 16 ? 2 : 4;
  launch("decode_rows", kernel_for(groups), dim3(unsigned(sm_count())), kWarps * 32,
         shared_bytes(groups), stream, true, args);
}

}  // namespace nibble::cuda
