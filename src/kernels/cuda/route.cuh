// Top 8 of 256 router logits by one warp.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"

namespace nibble::cuda {

/// Top 8 of 256 logits and their softmax, by one warp; ties: lowest index. logits[256] is the
/// shared gate. Reads past L1, so it may run before grid_wait(). ids and weights (null: not
/// wanted): falling order, shared last; an id is in memory as soon as it is known.
__device__ __forceinline__ void route_one_row(const float* logits, int* ids, float* weights) {
  const int lane = threadIdx.x % 32;
  uint32_t key[8];  // monotone in the logit, 0 = taken; the lane holds experts 8 * lane .. + 7
  const float4 low = load_l2_vector(logits + lane * 8);
  const float4 high = load_l2_vector(logits + lane * 8 + 4);
  const float value[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const uint32_t bits = __float_as_uint(value[i] + 0.0f);  // -0 and 0 are equal logits
    key[i] = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  }
  const float shared_gate = load_l2(logits + kExperts);
  uint32_t chosen_key = 0, top_key = 0;
#pragma unroll
  for (int rank = 0; rank < kRouted; ++rank) {
    uint32_t best[4];
    int at[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const bool first = key[2 * i] >= key[2 * i + 1];
      best[i] = first ? key[2 * i] : key[2 * i + 1];
      at[i] = first ? 2 * i : 2 * i + 1;
    }
#pragma unroll
    for (int width = 2; width > 0; width /= 2) {
#pragma unroll
      for (int i = 0; i < width; ++i) {
        const bool first = best[2 * i] >= best[2 * i + 1];
        best[i] = first ? best[2 * i] : best[2 * i + 1];
        at[i] = first ? at[2 * i] : at[2 * i + 1];
      }
    }
    const uint32_t winner_key = __reduce_max_sync(~0u, best[0]);
    const int winner = __ffs(__ballot_sync(~0u, best[0] == winner_key)) - 1;
    const int id = winner * 8 + __shfl_sync(~0u, at[0], winner);
#pragma unroll
    for (int i = 0; i < 8; ++i) key[i] &= lane == winner && at[0] == i ? 0u : ~0u;
    if (rank == 0) top_key = winner_key;
    if (lane == rank) chosen_key = winner_key;
    if (lane == 0) *static_cast<volatile int*>(ids + rank) = id;
  }
  if (lane == 0) ids[kRouted] = kExperts;
  if (weights == nullptr) return;
  const auto logit = [](uint32_t k) {
    return __uint_as_float(k & 0x80000000u ? k & 0x7fffffffu : ~k);
  };
  const float e = lane < kRouted ? expf(logit(chosen_key) - logit(top_key)) : 0.0f;
  const float sum = warp_sum(e);
  if (lane < kRouted) weights[lane] = e / sum;
  if (lane == kRouted) weights[lane] = sigmoid(shared_gate);
  __syncwarp();
}

}  // namespace nibble::cuda
