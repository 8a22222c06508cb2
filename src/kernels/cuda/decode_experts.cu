// Experts of one decode row: top 8, gate and up, down, weighted sum with the shared expert,
// residual.
//
// Both kernels find the top 8 themselves from the router's logits. gate_up releases its dependents
// only after its own wait, so that down may read the logits, and ask for its weights, before its
// wait: the router has finished by then. Slot 8 is the shared expert.
#include "kernels/cuda/decode.h"
#include "kernels/cuda/nvfp4.cuh"
#include "kernels/cuda/route.cuh"

namespace nibble::cuda {
namespace {

constexpr int kSlots = kRouted + 1;
constexpr int kGateUpPanels = 2 * kInner / 16, kGateUpUnits = kHidden / kUnitK;
constexpr int kDownUnits = kInner / kUnitK;
constexpr int kGateUpPanelBytes = kGateUpUnits * kUnitBytes;
constexpr size_t kPadGateUp = 118 << 10, kPadDown = 60 << 10;

__device__ __forceinline__ const uint8_t* expert_of(const Bank& routed, const Bank& shared,
                                                    int id) {
  return id == kExperts ? shared.data : routed.data + id * routed.stride;
}

/// An SM's whole share (at most 5 panels, 90 KiB) is asked for as the experts become known, one
/// bulk copy and barrier per (panel, unit); warp = (unit, half of the panels). The shared expert's
/// panels come first, then the routed ones by rank: warp 0 finds them, warps 8 to 15 ask.
__global__ void __maxnreg__(56) gate_up_kernel(const __grid_constant__ ExpertsArgs args) {
  constexpr int kTiles = 5, kAllTiles = kSlots * kGateUpPanels;
  extern __shared__ __align__(128) uint8_t panels[];
  __shared__ uint64_t full[kTiles][8];
  __shared__ float partial[kTiles][8][16];
  __shared__ uint4 x_shared[kHidden / 8];
  __shared__ int ids[kSlots];  // -1: not known yet
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, unit = warp % 8, group = warp / 8;
  const uint64_t policy = evict_first_policy();
  const auto tile_of = [&](int i) { return int(blockIdx.x) + i * int(gridDim.x); };
  const auto slot_of = [](int tile) { return (tile / kGateUpPanels + kRouted) % kSlots; };
  const auto issue = [&](int i, int expert) {
    barrier_expect(&full[i][unit], kUnitBytes);
    bulk_load(panels + i * kGateUpPanelBytes + unit * kUnitBytes,
              expert_of(args.gate_up, args.shared_gate_up, expert) +
                  size_t(tile_of(i) % kGateUpPanels) * kGateUpPanelBytes + unit * kUnitBytes,
              kUnitBytes, &full[i][unit], policy);
  };
  if (threadIdx.x < kSlots) ids[threadIdx.x] = -1;
  const bool first_issued = slot_of(tile_of(0)) == kRouted;
  if (lane == 0 && group == 1) {
    for (int i = 0; i < kTiles; ++i) barrier_init(&full[i][unit], 1);
    barrier_init_fence();
    if (first_issued) issue(0, kExperts);
  }
  __syncthreads();
  grid_wait();
  grid_release();  // after the wait: down may then read the logits before its own
  if (warp == 0) route_one_row(args.logits, ids, nullptr);
  if (group == 1) {
    const uint4 mine = static_cast<const uint4*>(args.x)[threadIdx.x - 256];
    if (lane == 0) {
      for (int i = first_issued ? 1 : 0; i < kTiles && tile_of(i) < kAllTiles; ++i) {
        int expert = -1;
        while (expert < 0) expert = *static_cast<volatile int*>(ids + slot_of(tile_of(i)));
        issue(i, expert);
      }
    }
    __syncwarp();
    x_shared[threadIdx.x - 256] = mine;
  }
  __syncthreads();
  if (args.experts_out != nullptr && blockIdx.x == 0 && threadIdx.x < kRouted) {
    args.experts_out[threadIdx.x] = ids[threadIdx.x];
  }
  const int tile = tile_of(threadIdx.x / 8);
  const bool is_writer = threadIdx.x < kTiles * 8 && tile < kAllTiles;
  float2 scales = make_float2(0.0f, 0.0f);
  if (is_writer) {
    const int expert = ids[slot_of(tile)];
    scales = *reinterpret_cast<const float2*>(
        expert == kExperts ? args.shared_gate_up.scales : args.gate_up.scales + 2 * expert);
  }
#pragma unroll 1
  for (int i = group; i < kTiles; i += 2) {
    if (tile_of(i) >= kAllTiles) break;
    barrier_wait(&full[i][unit], 0);
    float acc[4][4] = {};
    multiply_unit_shared(panels + i * kGateUpPanelBytes + unit * kUnitBytes, x_shared + unit * 32,
                         acc);
    if (lane % 4 == 0) {
      partial[i][unit][lane / 4] = (acc[0][0] + acc[1][0]) + (acc[2][0] + acc[3][0]);
      partial[i][unit][lane / 4 + 8] = (acc[0][2] + acc[1][2]) + (acc[2][2] + acc[3][2]);
    }
  }
  __syncthreads();
  if (is_writer) {
    const int i = threadIdx.x / 8, r = threadIdx.x % 8;
    float gate = 0, up = 0;
#pragma unroll
    for (int u = 0; u < 8; ++u) {
      gate += partial[i][u][r];
      up += partial[i][u][r + 8];
    }
    static_cast<bf16*>(args.act)[slot_of(tile) * kInner + tile % kGateUpPanels * 8 + r] =
        __float2bfloat16(silu(gate * (scales.x * kUnitFix)) * (up * (scales.y * kUnitFix)));
  }
}

/// CTA = 16 output rows; 18 warps, one unit each.
__global__ void __launch_bounds__(kSlots* kDownUnits * 32, 2) down_kernel(ExpertsArgs args) {
  constexpr int kWarps = kSlots * kDownUnits;
  extern __shared__ __align__(128) uint8_t units[];
  __shared__ uint64_t full[kWarps];
  __shared__ float partial[kWarps][16];
  __shared__ uint4 act_shared[kWarps][32];
  __shared__ int ids[16];
  __shared__ float weights[16];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, slot = warp / 2, half = warp % 2;
  grid_release();
  if (lane == 0) {
    barrier_init(&full[warp], 1);
    barrier_init_fence();
  }
  if (warp == 0) route_one_row(args.logits, ids, weights);
  __syncthreads();
  const int expert = ids[slot];
  if (lane == 0) {
    barrier_expect(&full[warp], kUnitBytes);
    bulk_load(units + warp * kUnitBytes,
              expert_of(args.down, args.shared_down, expert) +
                  (size_t(blockIdx.x) * kDownUnits + half) * kUnitBytes,
              kUnitBytes, &full[warp], evict_first_policy());
  }
  const float scale = expert == kExperts ? args.shared_down.scales[0] : args.down.scales[expert];
  const float factor = weights[slot] * scale * kUnitFix;
  grid_wait();
  float residual = 0;
  if (threadIdx.x < 16) residual = args.h[blockIdx.x * 16 + threadIdx.x];
  act_shared[warp][lane] = reinterpret_cast<const uint4*>(static_cast<const bf16*>(args.act) +
                                                          slot * kInner + half * kUnitK)[lane];
  __syncwarp();
  barrier_wait(&full[warp], 0);
  float acc[4][4] = {};
  multiply_unit_shared(units + warp * kUnitBytes, act_shared[warp], acc);
  if (lane % 4 == 0) {
    partial[warp][lane / 4] = factor * ((acc[0][0] + acc[1][0]) + (acc[2][0] + acc[3][0]));
    partial[warp][lane / 4 + 8] = factor * ((acc[0][2] + acc[1][2]) + (acc[2][2] + acc[3][2]));
  }
  __syncthreads();
  if (threadIdx.x < 16) {
    float y = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) y += partial[w][threadIdx.x];
    args.h[blockIdx.x * 16 + threadIdx.x] = residual + y;
  }
}

}  // namespace

void prepare_decode_experts() {
  allow_shared(gate_up_kernel, kPadGateUp);
  allow_shared(down_kernel, kPadDown);
  cudaFuncSetAttribute(gate_up_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  cudaFuncSetAttribute(down_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
}

void decode_gate_up(const ExpertsArgs& args, Stream stream) {
  launch("decode_gate_up", gate_up_kernel, dim3(unsigned(sm_count())), 512, kPadGateUp, stream,
         true, args);
}

void decode_down(const ExpertsArgs& args, Stream stream) {
  launch("decode_down", down_kernel, dim3(kHidden / 16), kSlots * kDownUnits * 32, kPadDown, stream,
         true, args);
}

}  // namespace nibble::cuda
