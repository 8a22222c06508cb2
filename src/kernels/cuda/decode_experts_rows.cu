// Experts of two to kMaxMmaRows decode rows: router with top 8 and the table of who uses which
// expert, gate and up, down, weighted sum.
//
// A CTA of gate_up or down is (panels, entry of the table), its warps are units of 16 rows x 256 k;
// an entry's pairs are the columns of the product, eight at a time. Entry 0 is the shared expert,
// which every row uses: gate_up asks for its weights before the router has ended. gate_up releases
// its dependents after its own wait, so down reads the table, and asks for its weights, before its
// wait.
#include "kernels/cuda/decode.h"
#include "kernels/cuda/nvfp4.cuh"
#include "kernels/cuda/route.cuh"

namespace nibble::cuda {
namespace {

constexpr int kSlots = kRouted + 1, kMaxRows = int(kMaxMmaRows);
constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kGateUpUnits = kHidden / kUnitK, kDownUnits = kInner / kUnitK;
constexpr int kDownPanels = kWarps / kDownUnits;  // of a CTA
constexpr int kCombineThreads = 128;

// ---------------------------------------------------------------- router

constexpr int kRouterThreads = 512, kRouterWarps = kRouterThreads / 32;
constexpr int kRouterRows = 16, kRouterCtas = (kExperts + kRouterRows) / kRouterRows;
constexpr int kSlice = kHidden / kRouterWarps, kSteps = kSlice / 32, kSums = 20;
/// Rows of x lie 64 bytes apart from a multiple of 128: the 8 columns of an operand meet different
/// banks.
constexpr int kXStride = 2 * kHidden + 64;
static_assert(kGateUpUnits == kWarps && kMaxRows * kRouterRows == kRouterThreads);

constexpr size_t router_shared_bytes(int groups) {
  return size_t(8 * groups) * (kXStride + kRouterWarps * kSums * sizeof(float)) +
         kHidden * sizeof(float);
}

struct RoutingState {
  int ids[kMaxRows][kSlots], users[kExperts + 1], entry[kExperts + 1], active[kExperts / 32];
  float weights[kMaxRows][kSlots];
};

/// By one CTA: top 8 of every row from the logits in memory, then the table.
__device__ __forceinline__ void make_table(const RouterRowsArgs& args, RoutingState& s) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, e = threadIdx.x;
  if (e <= kExperts) s.users[e] = 0;
  for (int row = warp; row < args.rows; row += kRouterWarps) {
    route_one_row(args.logits + row * kLogitStride, s.ids[row], s.weights[row]);
  }
  __syncthreads();
  const int pairs = args.rows * kSlots, pair = threadIdx.x;
  int id = 0, place = 0;
  if (pair < pairs) {
    const int row = pair / kSlots, slot = pair % kSlots;
    id = s.ids[row][slot];
    place = atomicAdd(&s.users[id], 1);
    args.table.weights[pair] = s.weights[row][slot];
    if (args.experts_out != nullptr && slot < kRouted) {
      args.experts_out[row * kRouted + slot] = id;
    }
  }
  __syncthreads();
  const bool is_active = e < kExperts && s.users[e] > 0;
  const uint32_t mask = __ballot_sync(~0u, is_active);
  if (e < kExperts && lane == 0) s.active[warp] = __popc(mask);
  __syncthreads();
  int before = 1, total = 1;  // entry 0: the shared expert
#pragma unroll
  for (int w = 0; w < kExperts / 32; ++w) {
    before += w < warp ? s.active[w] : 0;
    total += s.active[w];
  }
  before += __popc(mask & ((1u << lane) - 1));
  if (is_active) {
    s.entry[e] = before;
    args.table.entries[before].expert = e;
    args.table.entries[before].users = s.users[e];
  } else if (e == kExperts) {
    s.entry[e] = 0;
    args.table.entries[0].expert = kExperts;
    args.table.entries[0].users = args.rows;
  }
  if (total + e <= kExperts) args.table.entries[total + e].users = 0;
  __syncthreads();
  if (pair < pairs) args.table.entries[s.entry[id]].pairs[place] = uint16_t(pair);
}

/// CTA = 16 experts (the last one: the shared gate), its warps share out K. Every CTA norms every
/// row for itself; the CTA that ends last routes.
template <int kGroups>
__global__ void __launch_bounds__(kRouterThreads, 1)
    router_rows_kernel(const __grid_constant__ RouterRowsArgs args) {
  extern __shared__ __align__(128) uint8_t x[];
  float(*partial)[8 * kGroups][kSums] =
      reinterpret_cast<float(*)[8 * kGroups][kSums]>(x + 8 * kGroups * kXStride);
  float4* norm = reinterpret_cast<float4*>(partial + kRouterWarps);
  __shared__ RoutingState state;
  __shared__ bool is_last;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  grid_release();
  uint4 a[kSteps][2];
  const int expert = int(blockIdx.x) * kRouterRows + g;
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
    const bf16* from = static_cast<const bf16*>(args.weight) + size_t(expert) * kHidden +
                       warp * kSlice + s * 32 + t * 8;
    a[s][0] = expert <= kExperts ? load_stream(from) : make_uint4(0, 0, 0, 0);
    a[s][1] = expert + 8 <= kExperts ? load_stream(from + 8 * kHidden) : make_uint4(0, 0, 0, 0);
  }
  norm[threadIdx.x] = reinterpret_cast<const float4*>(args.norm_weight)[threadIdx.x];
  grid_wait();
  __syncthreads();
  for (int row = warp; row < args.rows; row += kRouterWarps) {
    float4 v[16];
    float sum = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      v[i] = reinterpret_cast<const float4*>(args.h + int64_t{row} * kHidden)[i * 32 + lane];
    }
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      sum += v[i].x * v[i].x + v[i].y * v[i].y + (v[i].z * v[i].z + v[i].w * v[i].w);
    }
    const float r = rsqrtf(warp_sum(sum) / kHidden + args.eps);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const float4 w = norm[i * 32 + lane];
      reinterpret_cast<uint2*>(x + row * kXStride)[i * 32 + lane] =
          make_uint2(pack_bf16(v[i].x * r * (1.0f + w.x), v[i].y * r * (1.0f + w.y)),
                     pack_bf16(v[i].z * r * (1.0f + w.z), v[i].w * r * (1.0f + w.w)));
    }
  }
  __syncthreads();
  for (int row = blockIdx.x; row < args.rows; row += gridDim.x) {
    if (threadIdx.x >= kHidden / 8) break;
    static_cast<uint4*>(args.x)[row * (kHidden / 8) + threadIdx.x] =
        reinterpret_cast<const uint4*>(x + row * kXStride)[threadIdx.x];
  }
  float acc[kGroups][4] = {};
#pragma unroll
  for (int s = 0; s < kSteps; ++s) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      uint4 b = make_uint4(0, 0, 0, 0);
      if (n * 8 + g < args.rows) {
        b = *reinterpret_cast<const uint4*>(x + (n * 8 + g) * kXStride +
                                            (warp * kSlice + s * 32 + t * 8) * 2);
      }
      mma_bf16(acc[n], a[s][0].x, a[s][1].x, a[s][0].y, a[s][1].y, b.x, b.y);
      mma_bf16(acc[n], a[s][0].z, a[s][1].z, a[s][0].w, a[s][1].w, b.z, b.w);
    }
  }
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int v = 0; v < 4; ++v) {
      partial[warp][n * 8 + 2 * t + v % 2][g + v / 2 * 8] = acc[n][v];
    }
  }
  __syncthreads();
  const int row = threadIdx.x / kRouterRows, r = threadIdx.x % kRouterRows;
  if (row < args.rows && int(blockIdx.x) * kRouterRows + r <= kExperts) {
    float y = 0;
#pragma unroll
    for (int w = 0; w < kRouterWarps; ++w) y += partial[w][row][r];
    args.logits[row * kLogitStride + blockIdx.x * kRouterRows + r] = y;
    __threadfence();
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(args.table.finished, 1u) == gridDim.x - 1;
    if (is_last) *args.table.finished = 0;
    __threadfence();
  }
  __syncthreads();
  if (is_last) make_table(args, state);
}

// ---------------------------------------------------------------- experts

/// The 256 k of a unit of up to eight columns; 16 bytes apart from a multiple of 128, so that two
/// columns meet different banks.
constexpr int kColumnBytes = 2 * kUnitK + 16;
using Columns = uint8_t[8][kColumnBytes];

/// The entry for all threads of the CTA; past L1, so that it may run before grid_wait().
__device__ __forceinline__ void load_entry(const ExpertUsers* from, ExpertUsers& to) {
  constexpr int kVectors = sizeof(ExpertUsers) / 16;
  if (threadIdx.x < kVectors) {
    reinterpret_cast<uint4*>(&to)[threadIdx.x] =
        __ldcg(reinterpret_cast<const uint4*>(from) + threadIdx.x);
  }
  __syncthreads();
}

/// Asks for the warp's columns: pair / per_row is the row of x.
__device__ __forceinline__ void ask_for_columns(const bf16* x, const uint16_t* pairs, int per_row,
                                                int stride, int count, Columns& columns) {
  const int lane = threadIdx.x % 32;
  for (int c = 0; c < count; ++c) {
    const bf16* from = x + pairs[c] / per_row * stride + lane * 8;
    asm volatile(
        "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(&columns[c][lane * 16])),
        "l"(from)
        : "memory");
  }
}
__device__ __forceinline__ void wait_for_columns() {
  asm volatile("cp.async.wait_all;" ::: "memory");
  __syncwarp();
}

/// Unit times columns: rows g (0, 1) and g + 8 (2, 3) of columns 2 t and 2 t + 1.
__device__ __forceinline__ float4 multiply_columns(UnitRegisters& u, const Columns& columns,
                                                   int count) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  float acc[2][4] = {};
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    // Decoded anew for every eight columns: kept, the decoded unit would fill 64 registers.
    asm volatile(""
                 : "+r"(u.codes[c].x), "+r"(u.codes[c].y), "+r"(u.codes[c].z), "+r"(u.codes[c].w));
    uint4 b[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
    if (g < count) {
      b[0] = *reinterpret_cast<const uint4*>(&columns[g][c * 128 + t * 32]);
      b[1] = *reinterpret_cast<const uint4*>(&columns[g][c * 128 + t * 32 + 16]);
    }
    uint32_t a[16];
    decode_a(u.codes[c], u.two_scales(c), a);
    mma_bf16(acc[0], a[0], a[1], a[2], a[3], b[0].x, b[0].y);
    mma_bf16(acc[1], a[4], a[5], a[6], a[7], b[0].z, b[0].w);
    mma_bf16(acc[0], a[8], a[9], a[10], a[11], b[1].x, b[1].y);
    mma_bf16(acc[1], a[12], a[13], a[14], a[15], b[1].z, b[1].w);
  }
  return make_float4(acc[0][0] + acc[1][0], acc[0][1] + acc[1][1], acc[0][2] + acc[1][2],
                     acc[0][3] + acc[1][3]);
}

__global__ void __launch_bounds__(kThreads, 4)
    gate_up_rows_kernel(const __grid_constant__ ExpertRowsArgs args) {
  __shared__ __align__(16) Columns columns[kWarps];
  __shared__ float partial[kWarps][16][8];
  __shared__ ExpertUsers entry;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const bool is_shared = blockIdx.y == 0;
  const size_t at = (size_t{blockIdx.x} * kGateUpUnits + warp) * kUnitBytes;
  UnitRegisters u;
  if (is_shared) u.load(args.shared_gate_up.data + at);
  grid_wait();
  grid_release();  // after the wait: down may then read the table before its own
  load_entry(args.table.entries + blockIdx.y, entry);
  const int users = entry.users, expert = entry.expert;
  if (users == 0) return;
  if (!is_shared) u.load(args.gate_up.data + expert * args.gate_up.stride + at);
  const float2 scales = *reinterpret_cast<const float2*>(
      is_shared ? args.shared_gate_up.scales : args.gate_up.scales + 2 * expert);
  for (int first = 0; first < users; first += 8) {
    const int count = min(8, users - first);
    ask_for_columns(static_cast<const bf16*>(args.x) + warp * kUnitK, entry.pairs + first, kSlots,
                    kHidden, count, columns[warp]);
    wait_for_columns();
    const float4 y = multiply_columns(u, columns[warp], count);
    *reinterpret_cast<float2*>(&partial[warp][g][2 * t]) = make_float2(y.x, y.y);
    *reinterpret_cast<float2*>(&partial[warp][g + 8][2 * t]) = make_float2(y.z, y.w);
    __syncthreads();
    const int r = threadIdx.x % 8, n = threadIdx.x / 8;
    if (n < count) {
      float gate = 0, up = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) {
        gate += partial[w][r][n];
        up += partial[w][r + 8][n];
      }
      static_cast<bf16*>(args.act)[entry.pairs[first + n] * kInner + blockIdx.x * 8 + r] =
          __float2bfloat16(silu(gate * (scales.x * kUnitFix)) * (up * (scales.y * kUnitFix)));
    }
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kThreads, 4)
    down_rows_kernel(const __grid_constant__ ExpertRowsArgs args) {
  __shared__ __align__(16) Columns columns[kWarps];
  __shared__ float4 partial[kDownPanels][32];
  __shared__ ExpertUsers entry;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const bool is_shared = blockIdx.y == 0;
  const int half = warp % kDownUnits, panel_of_cta = warp / kDownUnits;
  const int panel = int(blockIdx.x) * kDownPanels + panel_of_cta;
  grid_release();
  load_entry(args.table.entries + blockIdx.y, entry);
  const int users = entry.users, expert = entry.expert;
  UnitRegisters u;
  float scale = 0;
  if (users > 0) {
    const uint8_t* data =
        is_shared ? args.shared_down.data : args.down.data + expert * args.down.stride;
    u.load(data + (size_t(panel) * kDownUnits + half) * kUnitBytes);
    scale = (is_shared ? args.shared_down.scales : args.down.scales + expert)[0] * kUnitFix;
  }
  grid_wait();
  for (int first = 0; first < users; first += 8) {
    const int count = min(8, users - first);
    ask_for_columns(static_cast<const bf16*>(args.act) + half * kUnitK, entry.pairs + first, 1,
                    kInner, count, columns[warp]);
    wait_for_columns();
    const float4 mine = multiply_columns(u, columns[warp], count);
    if (half == 1) partial[panel_of_cta][lane] = mine;
    __syncthreads();
    if (half == 0) {
      const float4 other = partial[panel_of_cta][lane];
      const float y[4] = {mine.x + other.x, mine.y + other.y, mine.z + other.z, mine.w + other.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int column = 2 * t + i % 2;
        if (column >= count) continue;
        args.outputs[entry.pairs[first + column] * kHidden + panel * 16 + g + 8 * (i / 2)] =
            y[i] * scale;
      }
    }
    __syncthreads();
  }
}

/// Thread = four columns of one row. What it reads before its wait was there before gate_up's.
__global__ void __launch_bounds__(kCombineThreads)
    combine_rows_kernel(const __grid_constant__ ExpertRowsArgs args) {
  const int row = blockIdx.y, column = (int(blockIdx.x) * kCombineThreads + int(threadIdx.x)) * 4;
  grid_release();
  float weight[kSlots];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) weight[i] = load_l2(args.table.weights + row * kSlots + i);
  float* h = args.h + row * kHidden + column;
  const float4 residual = load_l2_vector(h);
  grid_wait();
  float4 y[kSlots];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    y[i] = *reinterpret_cast<const float4*>(args.outputs + (row * kSlots + i) * kHidden + column);
  }
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    sum.x += weight[i] * y[i].x, sum.y += weight[i] * y[i].y;
    sum.z += weight[i] * y[i].z, sum.w += weight[i] * y[i].w;
  }
  *reinterpret_cast<float4*>(h) =
      make_float4(residual.x + sum.x, residual.y + sum.y, residual.z + sum.z, residual.w + sum.w);
}

using RouterRowsKernel = void (*)(RouterRowsArgs);
RouterRowsKernel router_for(int groups) {
  return groups == 1   ? router_rows_kernel<1>
         : groups == 2 ? router_rows_kernel<2>
                       : router_rows_kernel<4>;
}

/// Entries that may be used: the second grid axis.
unsigned entries_bound(int rows) {
  return unsigned(min(rows * kRouted, kExperts) + 1);
}

}  // namespace

void prepare_decode_experts_rows() {
  for (auto* kernel : {gate_up_rows_kernel, down_rows_kernel, combine_rows_kernel}) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
  for (const int groups : {1, 2, 4}) {
    allow_shared(router_for(groups), router_shared_bytes(groups));
    cudaFuncSetAttribute(router_for(groups), cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
}

void decode_router_rows(const RouterRowsArgs& args, Stream stream) {
  const int groups = args.rows <= 8 ? 1 : args.rows <= 16 ? 2 : 4;
  launch("decode_router_rows", router_for(groups), dim3(kRouterCtas), kRouterThreads,
         router_shared_bytes(groups), stream, true, args);
}

void decode_gate_up_rows(const ExpertRowsArgs& args, Stream stream) {
  const dim3 grid(2 * kInner / 16, entries_bound(args.rows));
  launch("decode_gate_up_rows", gate_up_rows_kernel, grid, kThreads, 0, stream, true, args);
}

void decode_down_rows(const ExpertRowsArgs& args, Stream stream) {
  const dim3 grid(kHidden / 16 / kDownPanels, entries_bound(args.rows));
  launch("decode_down_rows", down_rows_kernel, grid, kThreads, 0, stream, true, args);
}

void decode_combine_rows(const ExpertRowsArgs& args, Stream stream) {
  const dim3 grid(kHidden / 4 / kCombineThreads, unsigned(args.rows));
  launch("decode_combine_rows", combine_rows_kernel, grid, kCombineThreads, 0, stream, true, args);
}

}  // namespace nibble::cuda
