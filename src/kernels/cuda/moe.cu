// Routing, the routing table, and expert products for few rows per expert and for any shape.
//
// gate_up_units: CTA = (panel of 8 gate and 8 up rows, active expert), 8 warps share out K; the
// expert's pairs are the columns of the product, eight at a time. down_units: a warp per 16-row
// panel.
#include "kernels/cuda/fp8_rows.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/nvfp4.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxExperts = 1024;

// ---------------------------------------------------------------- routing

/// One warp per row: `chosen` rounds of a warp-wide maximum.
__global__ void __launch_bounds__(kThreads) route_kernel(RouteArgs args) {
  const int64_t row = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (row >= args.rows) return;
  const int lane = threadIdx.x % 32;
  const float* logits = args.logits + row * args.logit_stride;
  constexpr int kPerLane = kMaxExperts / 32;
  uint32_t taken = 0;  // bit i: expert i * 32 + lane is chosen
  int mine = -1;
  float mine_logit = -INFINITY, top = -INFINITY;
  for (int rank = 0; rank < args.chosen; ++rank) {
    int best = -1;
    float best_logit = -INFINITY;
    if (args.forced != nullptr) {
      best = args.forced[row * args.chosen + rank];
      best_logit = logits[best];
    } else {
      for (int i = 0; i < kPerLane && i * 32 + lane < args.num_experts; ++i) {
        const float value = logits[i * 32 + lane];
        if (!(taken >> i & 1) && (best < 0 || value > best_logit)) {
          best = i * 32 + lane;
          best_logit = value;
        }
      }
#pragma unroll
      for (int offset = 16; offset > 0; offset >>= 1) {
        const int other = __shfl_xor_sync(~0u, best, offset);
        const float other_logit = __shfl_xor_sync(~0u, best_logit, offset);
        const bool better = other >= 0 && (best < 0 || other_logit > best_logit ||
                                           (other_logit == best_logit && other < best));
        if (better) {
          best = other;
          best_logit = other_logit;
        }
      }
      if (best % 32 == lane) taken |= 1u << (best / 32);
    }
    top = fmaxf(top, best_logit);
    if (lane == rank) {
      mine = best;
      mine_logit = best_logit;
    }
  }
  const float e = lane < args.chosen ? expf(mine_logit - top) : 0.0f;
  const float sum = warp_sum(e);
  if (lane < args.chosen) {
    args.experts[row * args.chosen + lane] = mine;
    args.weights[row * args.chosen + lane] = e / sum;
  }
}

// ---------------------------------------------------------------- table

/// One CTA: counts, begins, the pairs of each expert in no particular order.
__global__ void __launch_bounds__(1024) table_kernel(TableArgs args) {
  __shared__ int count[kMaxExperts], place[kMaxExperts];
  const int pairs = int(args.rows) * args.slots, experts = args.num_experts;
  for (int e = threadIdx.x; e < experts; e += blockDim.x) count[e] = 0;
  __syncthreads();
  for (int p = threadIdx.x; p < pairs; p += blockDim.x) {
    atomicAdd(&count[args.experts == nullptr ? 0 : args.experts[p]], 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    int total = 0, active = 0;
    for (int e = 0; e < experts; ++e) {
      args.table.first[e] = place[e] = total;
      total += count[e];
      if (count[e] > 0) args.table.active[active++] = e;
    }
    args.table.first[experts] = total;
    args.table.counts[0] = active;
  }
  __syncthreads();
  for (int p = threadIdx.x; p < pairs; p += blockDim.x) {
    const int e = args.experts == nullptr ? 0 : args.experts[p];
    args.table.pairs[atomicAdd(&place[e], 1)] = p;
  }
}

// ---------------------------------------------------------------- any shape

__device__ __forceinline__ float round_weight(float weight) {
  __nv_fp8_e4m3 byte;
  store_as(&byte, weight / kFp8Nvfp4Factor);
  return to_float(byte) * kFp8Nvfp4Factor;
}

template <typename T>
__device__ __forceinline__ float row_dot(const MoeArgs& args, const uint8_t* matrix, int64_t row,
                                         const T* x) {
  const Bank& bank = args.bank;
  const bool rounds = args.rounds_weights && bank.format == Format::nvfp4;
  float sum = 0;
  for (int64_t k = threadIdx.x % 32; k < bank.k; k += 32) {
    const float weight = weight_element(bank.format, matrix, bank.n, bank.k, row, k);
    sum = fmaf(rounds ? round_weight(weight) : weight, to_float(x[k]), sum);
  }
  return warp_sum(sum);
}

/// A warp per (pair, inner column).
template <typename T>
__global__ void __launch_bounds__(kThreads) gate_up_generic_kernel(MoeArgs args) {
  const int64_t intermediate = args.bank.n / 2, pair = blockIdx.x;
  const int64_t i = blockIdx.y * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (i >= intermediate) return;
  const int e = args.experts == nullptr ? 0 : args.experts[pair];
  const uint8_t* matrix = args.bank.data + e * args.bank.stride;
  const bool interleaved =
      gate_up_interleaved(args.bank.format == Format::nvfp4, intermediate, args.bank.k);
  const T* x = static_cast<const T*>(args.x) + pair / args.slots * args.bank.k;
  const float gate = row_dot(args, matrix, gate_up_row(interleaved, intermediate, i, false), x) *
                     args.bank.scales[2 * e];
  const float up = row_dot(args, matrix, gate_up_row(interleaved, intermediate, i, true), x) *
                   args.bank.scales[2 * e + 1];
  if (threadIdx.x % 32 == 0) {
    store_as(static_cast<T*>(args.out) + pair * intermediate + i, silu(gate) * up);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) down_generic_kernel(MoeArgs args) {
  const int64_t pair = blockIdx.x;
  const int64_t i = blockIdx.y * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (i >= args.bank.n) return;
  const int e = args.experts == nullptr ? 0 : args.experts[pair];
  const float y = row_dot(args, args.bank.data + e * args.bank.stride, i,
                          static_cast<const T*>(args.x) + pair * args.bank.k) *
                  args.bank.scales[e];
  if (threadIdx.x % 32 == 0) static_cast<float*>(args.out)[pair * args.bank.n + i] = y;
}

/// Thread = one column of one row.
__global__ void __launch_bounds__(kThreads) combine_kernel(CombineArgs args) {
  const int64_t row = blockIdx.x, i = blockIdx.y * int64_t{kThreads} + threadIdx.x;
  if (i >= args.n) return;
  const float* y = args.y + row * args.slots * args.n + i;
  float sum = 0;
#pragma unroll 9
  for (int slot = 0; slot < args.slots; ++slot) {
    const float weight = args.weights == nullptr ? 1.0f : args.weights[row * args.slots + slot];
    sum += weight * y[slot * args.n];
  }
  args.out[row * args.n + i] = sum;
}

// ---------------------------------------------------------------- units, few rows per expert

/// The B registers of a unit's chunk c for up to eight columns; column g is this lane's.
__device__ __forceinline__ void load_column(const bf16* column, int k0, uint4 (&b)[2]) {
  b[0] = b[1] = make_uint4(0, 0, 0, 0);
  if (column == nullptr) return;
  const uint4* from = reinterpret_cast<const uint4*>(column + k0 + threadIdx.x % 4 * 16);
  b[0] = from[0];
  b[1] = from[1];
}

/// acc += unit * columns in two chains.
__device__ __forceinline__ void multiply_unit(const UnitRegisters& u, const bf16* column, int k0,
                                              float (&acc)[2][4]) {
  uint4 columns[4][2];
#pragma unroll
  for (int c = 0; c < 4; ++c) load_column(column, k0 + c * 64, columns[c]);
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    uint32_t a[16];
    const uint4(&b)[2] = columns[c];
    decode_a(u.codes[c], u.two_scales(c), a);
    mma_bf16(acc[0], a[0], a[1], a[2], a[3], b[0].x, b[0].y);
    mma_bf16(acc[1], a[4], a[5], a[6], a[7], b[0].z, b[0].w);
    mma_bf16(acc[0], a[8], a[9], a[10], a[11], b[1].x, b[1].y);
    mma_bf16(acc[1], a[12], a[13], a[14], a[15], b[1].z, b[1].w);
  }
}

__global__ void __launch_bounds__(kThreads, 4) gate_up_units_kernel(MoeArgs args) {
  __shared__ float partial[8][16][8];
  __shared__ int pair_of[8];
  if (int(blockIdx.y) >= args.table.counts[0]) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int e = args.table.active[blockIdx.y], units = int(args.bank.k / kUnitK);
  const int64_t intermediate = args.bank.n / 2;
  const uint8_t* panel =
      args.bank.data + e * args.bank.stride + int64_t(blockIdx.x) * units * kUnitBytes;
  UnitRegisters u;
  if (warp < units) u.load(panel + warp * kUnitBytes);
  const int end = args.table.first[e + 1];
  const float* scales = args.bank.scales + 2 * e;
  const float gate_scale = scales[0] * kUnitFix, up_scale = scales[1] * kUnitFix;
  for (int first = args.table.first[e]; first < end; first += 8) {
    const int columns = min(8, end - first);
    const int pair = g < columns ? args.table.pairs[first + g] : -1;
    if (threadIdx.x < 32 && t == 0) pair_of[g] = pair;
    const bf16* column =
        pair < 0 ? nullptr : static_cast<const bf16*>(args.x) + pair / args.slots * args.bank.k;
    float acc[2][4] = {};
    for (int unit = warp; unit < units; unit += 8) {
      if (unit != warp) u.load(panel + unit * kUnitBytes);
      multiply_unit(u, column, unit * kUnitK, acc);
    }
    if (units > 8) u.load(panel + warp * kUnitBytes);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      partial[warp][g + 8 * (i / 2)][2 * t + i % 2] = acc[0][i] + acc[1][i];
    }
    __syncthreads();
    if (int(threadIdx.x) < 8 * columns) {
      const int r = threadIdx.x % 8, n = threadIdx.x / 8;
      float gate = 0, up = 0;
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        gate += partial[w][r][n];
        up += partial[w][r + 8][n];
      }
      static_cast<bf16*>(args.out)[pair_of[n] * intermediate + blockIdx.x * 8 + r] =
          __float2bfloat16(silu(gate * gate_scale) * (up * up_scale));
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads, 4) down_units_kernel(MoeArgs args) {
  if (int(blockIdx.y) >= args.table.counts[0]) return;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int64_t panel = blockIdx.x * int64_t{8} + warp;
  if (panel * 16 >= args.bank.n) return;
  const int e = args.table.active[blockIdx.y], units = int(args.bank.k / kUnitK);
  const uint8_t* from = args.bank.data + e * args.bank.stride + panel * units * kUnitBytes;
  const int end = args.table.first[e + 1];
  const float scale = args.bank.scales[e] * kUnitFix;
  for (int first = args.table.first[e]; first < end; first += 8) {
    const int pair = g < min(8, end - first) ? args.table.pairs[first + g] : -1;
    const bf16* column = pair < 0 ? nullptr : static_cast<const bf16*>(args.x) + pair * args.bank.k;
    float acc[2][4] = {};
    for (int unit = 0; unit < units; ++unit) {
      UnitRegisters u;
      u.load(from + unit * kUnitBytes);
      multiply_unit(u, column, unit * kUnitK, acc);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int of_column = __shfl_sync(~0u, pair, (2 * t + i % 2) * 4);
      if (of_column < 0) continue;
      static_cast<float*>(args.out)[of_column * args.bank.n + panel * 16 + g + 8 * (i / 2)] =
          (acc[0][i] + acc[1][i]) * scale;
    }
  }
}

int64_t pairs_of(const MoeArgs& args) {
  return args.rows * args.slots;
}

/// Experts that may be active: the second grid axis.
unsigned active_bound(const MoeArgs& args) {
  const int64_t pairs = pairs_of(args);
  return static_cast<unsigned>(pairs < args.bank.num_experts ? pairs : args.bank.num_experts);
}

}  // namespace

void moe_route(const RouteArgs& args, Stream stream) {
  launch("moe_route", route_kernel, dim3(ceil_div(args.rows, kThreads / 32)), kThreads, 0, stream,
         false, args);
}

void moe_table(const TableArgs& args, Stream stream) {
  launch("moe_table", table_kernel, dim3(1), 1024, 0, stream, false, args);
}

void moe_gate_up_generic(const MoeArgs& args, Stream stream) {
  const dim3 grid(unsigned(pairs_of(args)), ceil_div(args.bank.n / 2, kThreads / 32));
  auto* kernel =
      args.x_type == Element::bf16 ? gate_up_generic_kernel<bf16> : gate_up_generic_kernel<float>;
  launch("moe_gate_up_generic", kernel, grid, kThreads, 0, stream, false, args);
}

void moe_down_generic(const MoeArgs& args, Stream stream) {
  const dim3 grid(unsigned(pairs_of(args)), ceil_div(args.bank.n, kThreads / 32));
  auto* kernel =
      args.x_type == Element::bf16 ? down_generic_kernel<bf16> : down_generic_kernel<float>;
  launch("moe_down_generic", kernel, grid, kThreads, 0, stream, false, args);
}

bool can_moe_gate_up_units(const MoeArgs& args) {
  return args.x_type == Element::bf16 && args.bank.format == Format::nvfp4 &&
         gate_up_interleaved(true, args.bank.n / 2, args.bank.k);
}

bool can_moe_down_units(const MoeArgs& args) {
  return args.x_type == Element::bf16 && args.bank.format == Format::nvfp4 &&
         args.out_type == Element::f32 && has_units(args.bank.n, args.bank.k);
}

void moe_gate_up_units(const MoeArgs& args, Stream stream) {
  const dim3 grid(unsigned(args.bank.n / 16), active_bound(args));
  launch("moe_gate_up_units", gate_up_units_kernel, grid, kThreads, 0, stream, false, args);
}

void moe_down_units(const MoeArgs& args, Stream stream) {
  const dim3 grid(ceil_div(args.bank.n / 16, 8), active_bound(args));
  launch("moe_down_units", down_units_kernel, grid, kThreads, 0, stream, false, args);
}

void moe_combine(const CombineArgs& args, Stream stream) {
  launch("moe_combine", combine_kernel, dim3(unsigned(args.rows), ceil_div(args.n, kThreads)),
         kThreads, 0, stream, false, args);
}

}  // namespace nibble::cuda
