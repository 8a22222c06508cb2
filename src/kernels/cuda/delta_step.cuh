// One token of the gated delta rule for 8 value columns, by one warp; the state lives in registers.
//
// Lane = (8 keys kg * 8 .. + 7, 4 value columns half * 4 .. + 3) with half = lane & 1, kg = lane
// >> 1. State memory is [128 keys][128 values]: a lane pair reads 32 contiguous bytes of each key
// row.
#pragma once

#include "kernels/cuda/common.cuh"

namespace nibble::cuda {

constexpr int kDeltaHead = 128, kDeltaColumnsPerWarp = 8, kDeltaWarps = 4;
constexpr int kDeltaColumnsPerBlock = kDeltaColumnsPerWarp * kDeltaWarps;
constexpr float kQueryScale = 0.08838834764831845f;  // 1 / sqrt(128)

struct DeltaState {
  float s[8][4];

  __device__ __forceinline__ void load(const float* from) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      *reinterpret_cast<float4*>(s[i]) = *reinterpret_cast<const float4*>(from + i * kDeltaHead);
    }
  }
  __device__ __forceinline__ void store(float* to) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      *reinterpret_cast<float4*>(to + i * kDeltaHead) = *reinterpret_cast<const float4*>(s[i]);
    }
  }
};

/// Offset of this lane's part inside one head's state, for the warp's columns of block `quarter`.
__device__ __forceinline__ int delta_place(int quarter) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  return (lane >> 1) * 8 * kDeltaHead + quarter * kDeltaColumnsPerBlock +
         warp * kDeltaColumnsPerWarp + (lane & 1) * 4;
}
/// Column inside the block that this lane's output belongs to, and whether the lane is the one to
/// write.
__device__ __forceinline__ int delta_column() {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  return warp * kDeltaColumnsPerWarp + (lane & 1) * 4 + ((lane & 8) ? 2 : 0) + ((lane & 4) ? 1 : 0);
}
__device__ __forceinline__ bool delta_writes() {
  const int lane = threadIdx.x % 32;
  return (lane & 16) && !(lane & 2);
}

/// What a token brings: k and q normed [128] (q scaled), v of this lane's column, gates, k . q.
struct DeltaToken {
  const float* k;
  const float* q;
  float v, decay, beta, kq;
};

/// Advances the state and returns the output of delta_column(), valid where delta_writes().
__device__ __forceinline__ float delta_step(const DeltaToken& token, DeltaState& state) {
  const int lane = threadIdx.x % 32, kg = lane >> 1;
  float k[8], q[8];
  *reinterpret_cast<float4*>(k) = *reinterpret_cast<const float4*>(token.k + kg * 8);
  *reinterpret_cast<float4*>(k + 4) = *reinterpret_cast<const float4*>(token.k + kg * 8 + 4);
  *reinterpret_cast<float4*>(q) = *reinterpret_cast<const float4*>(token.q + kg * 8);
  *reinterpret_cast<float4*>(q + 4) = *reinterpret_cast<const float4*>(token.q + kg * 8 + 4);
  float sk[4] = {}, sq[4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sk[j] = fmaf(state.s[i][j], k[i], sk[j]);
      sq[j] = fmaf(state.s[i][j], q[i], sq[j]);
    }
  }
  // Eight sums over the 16 key groups by exchanging halves: lane bit 4 picks sk or sq, bits 3 and 2
  // the column.
  const bool b4 = lane & 16, b3 = lane & 8, b2 = lane & 4;
  float r[4], two[2];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    r[j] = (b4 ? sq[j] : sk[j]) + __shfl_xor_sync(~0u, b4 ? sk[j] : sq[j], 16);
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    two[j] = (b3 ? r[j + 2] : r[j]) + __shfl_xor_sync(~0u, b3 ? r[j] : r[j + 2], 8);
  }
  float x = (b2 ? two[1] : two[0]) + __shfl_xor_sync(~0u, b2 ? two[0] : two[1], 4);
  x += __shfl_xor_sync(~0u, x, 2);
  const float mine = (token.v - token.decay * x) * token.beta;  // the correction, if bit 4 is 0
  float d[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    d[j] = __shfl_sync(~0u, mine, ((j >> 1) << 3) | ((j & 1) << 2) | (lane & 1));
  }
  const float d_of_column = __shfl_xor_sync(~0u, mine, 16);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) state.s[i][j] = fmaf(k[i], d[j], token.decay * state.s[i][j]);
  }
  return token.decay * x + token.kq * d_of_column;
}

}  // namespace nibble::cuda
