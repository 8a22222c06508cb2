// The expert layer of large steps around the grouped products: norm, routing, tiles, weighted sum.
//
// Pairs are counted, sorted by expert and cut into tiles on the device; nothing goes to the host.
#include "kernels/cuda/nvfp4_fp8.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/route.cuh"

namespace nibble::cuda {
namespace {

constexpr int kSlots = kRouted + 1, kGateUpRowTiles = 2 * kInner / 256,
              kDownRowTiles = kHidden / 256;

/// Where element k of an activation row is stored.
__host__ __device__ constexpr int permuted_k(int k) {
  const int t = k % 64 / 16, s = k % 16 / 4, h = k % 4 / 2, e = k % 2;
  return k / 64 * 64 + 16 * s + 8 * h + 2 * t + e;
}

/// The CTA's row, of which a thread holds eight values.
__device__ __forceinline__ void norm_row(const PrefillNormArgs& args, float4 a, float4 b) {
  const int64_t row = blockIdx.x;
  const int k = threadIdx.x * 8;
  const float4* weight = reinterpret_cast<const float4*>(args.weight + k);
  const float4 wa = weight[0], wb = weight[1];
  const float square =
      a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
  const float r = rsqrtf(block_sum(square) / kHidden + args.eps);
  uint32_t w[4] = {pack_bf16(a.x * r * (1.0f + wa.x), a.y * r * (1.0f + wa.y)),
                   pack_bf16(a.z * r * (1.0f + wa.z), a.w * r * (1.0f + wa.w)),
                   pack_bf16(b.x * r * (1.0f + wb.x), b.y * r * (1.0f + wb.y)),
                   pack_bf16(b.z * r * (1.0f + wb.z), b.w * r * (1.0f + wb.w))};
  const uint4 x = make_uint4(w[0], w[1], w[2], w[3]);
  if (args.x != nullptr) {
    *reinterpret_cast<uint4*>(static_cast<bf16*>(args.x) + row * kHidden + k) = x;
  }
  if (args.fp8 != nullptr) {
    const float scale = fp8_scale(block_max(largest_bf16(x)));
    uint8_t* to = static_cast<uint8_t*>(args.fp8) + row * kHidden;
    if (args.gate_weight != nullptr) {
      store_fp8_permuted(to, k, x, fp8_inverse(scale));
    } else {
      *reinterpret_cast<uint2*>(to + k) = pack_fp8x8(x, fp8_inverse(scale));
    }
    if (threadIdx.x == 0) args.fp8_scales[row] = scale;
  }
  if (args.gate_weight == nullptr) return;
  const uint4 gate = reinterpret_cast<const uint4*>(args.gate_weight)[threadIdx.x];
  const uint32_t g[4] = {gate.x, gate.y, gate.z, gate.w};
  float dot = 0;
  bf16* permuted = static_cast<bf16*>(args.permuted) + row * kHidden;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    dot = fmaf(bf16_low(w[i]), bf16_low(g[i]), fmaf(bf16_high(w[i]), bf16_high(g[i]), dot));
    if (args.permuted != nullptr) {
      *reinterpret_cast<uint32_t*>(permuted + permuted_k(k + 2 * i)) = w[i];
    }
  }
  dot = block_sum(dot);
  if (threadIdx.x == 0) args.logits[row * kLogitStride + kExperts] = dot;
}

/// CTA = row, thread = 8 values.
__global__ void __launch_bounds__(256) norm_kernel(PrefillNormArgs args) {
  const float4* from = reinterpret_cast<const float4*>(args.h + blockIdx.x * int64_t{kHidden});
  norm_row(args, from[2 * threadIdx.x], from[2 * threadIdx.x + 1]);
}

/// A warp per row. A pair's rank among its expert's pairs is handed out by counters; it goes to
/// `position` until the begins are known. Any order gives the same sums: columns of a product do
/// not meet.
__global__ void __launch_bounds__(256) route_kernel(PrefillRouteArgs args) {
  __shared__ int ids[8][16];
  __shared__ float weights[8][16];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t row = blockIdx.x * int64_t{8} + warp;
  if (row >= args.rows) return;
  route_one_row(args.logits + row * kLogitStride, ids[warp], weights[warp]);
  if (lane >= kSlots) return;
  const int64_t pair = row * kSlots + lane;
  const int id = ids[warp][lane];
  args.table.experts[pair] = id;
  args.table.weights[pair] = weights[warp][lane];
  args.table.position[pair] =
      id == kExperts ? int(row) : atomicAdd(&args.table.count[id * kCountStride], 1);
  if (args.experts_out != nullptr && lane < kRouted) args.experts_out[row * kRouted + lane] = id;
}

/// Thread = pair: to its place in the sorted list. Leaves the counters at zero.
__global__ void __launch_bounds__(256) place_kernel(PrefillTable table, int pairs) {
  if (blockIdx.x == 0) table.count[threadIdx.x * kCountStride] = 0;
  const int pair = blockIdx.x * 256 + threadIdx.x;
  if (pair >= pairs) return;
  const int to = table.first[table.experts[pair]] + table.position[pair];
  table.pairs[to] = pair;
  table.position[pair] = to;
}

/// Inclusive sums over 1024 threads.
__device__ __forceinline__ int scan_block(int x) {
  __shared__ int totals[32];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(~0u, x, offset);
    if (lane >= offset) x += other;
  }
  __syncthreads();
  if (lane == 31) totals[warp] = x;
  __syncthreads();
  for (int w = 0; w < warp; ++w) x += totals[w];
  return x;
}

/// CTA = list: the begins, and the tiles of experts by falling count. A list of widths 96 and 128
/// and one of 32 and 64 for each product; the row tiles of the same columns lie behind each other.
__global__ void __launch_bounds__(1024) table_kernel(PrefillRouteArgs args) {
  constexpr int kIds = kExperts + 1;
  __shared__ int count[kIds], first[kIds], order[kIds], ends[kIds];
  const int me = threadIdx.x, list = blockIdx.x;
  const bool is_narrow = list % 2 == 1;
  const int row_tiles = list < 2 ? kGateUpRowTiles : kDownRowTiles;
  const int mine = me < kExperts    ? args.table.count[me * kCountStride]
                   : me == kExperts ? int(args.rows)
                                    : 0;
  if (me < kIds) count[me] = mine;
  const int end = scan_block(mine);
  if (me < kIds) {
    first[me] = end - mine;
    if (list == 0) args.table.first[me] = end - mine;
  }
  // Ranks by falling count: four threads an expert. The shared one has the most pairs of all.
  static_assert(kExperts == 256);
  int rank = 0;
  for (int o = me % 4; o < kExperts; o += 4) {
    const int other = count[o], own = count[me / 4];
    rank += other > own || (other == own && o < me / 4);
  }
  rank += __shfl_xor_sync(~0u, rank, 1);
  rank += __shfl_xor_sync(~0u, rank, 2);
  if (me % 4 == 0) order[rank + 1] = me / 4;
  if (me == 0) order[0] = kExperts;
  __syncthreads();
  const int n = me < kIds ? count[order[me]] : 0, part = n % 128;
  const int tiles = is_narrow ? (part > 0 && part <= 64 ? 1 : 0) : n / 128 + (part > 64 ? 1 : 0);
  const int tiles_end = scan_block(tiles);
  if (me < kIds) ends[me] = tiles_end;
  if (me == kIds - 1) args.table.counts[list] = tiles_end * row_tiles;
  __syncthreads();
  Tile* to = args.table.tiles + int64_t(list) * args.table.tile_capacity;
  for (int i = me; i < ends[kIds - 1] * row_tiles; i += 1024) {
    const int tile = i / row_tiles;
    int low = 0, high = kIds - 1;  // the first rank whose end is behind the tile
    while (low < high) {
      const int middle = (low + high) / 2;
      if (ends[middle] > tile) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    const int e = order[low], pairs = count[e], begin = low == 0 ? 0 : ends[low - 1];
    const int done = is_narrow ? pairs / 128 * 128 : (tile - begin) * 128, left = pairs - done;
    const int columns = left > 96 ? 128 : left > 64 ? 96 : left > 32 ? 64 : 32;
    to[i] = {e, first[e] + done, min(left, columns), i % row_tiles, columns};
  }
}

/// Warp = row, lane = twice 8 values.
__global__ void __launch_bounds__(256) fp8_slots_kernel(PrefillFp8SlotsArgs args) {
  const int64_t row = blockIdx.x * int64_t{8} + threadIdx.x / 32;
  const int k = threadIdx.x % 32 * 8;
  if (row >= args.rows) return;
  const bf16* from = static_cast<const bf16*>(args.x) + row * kInner + k;
  const uint4 first = load_stream(from), second = load_stream(from + kInner / 2);
  const float scale = fp8_scale(warp_max(fmaxf(largest_bf16(first), largest_bf16(second))));
  uint8_t* to = static_cast<uint8_t*>(args.out) + row * kInner;
  store_fp8_permuted(to, k, first, fp8_inverse(scale));
  store_fp8_permuted(to, k + kInner / 2, second, fp8_inverse(scale));
  if (k == 0) args.scales[row] = scale;
}

/// CTA = row, thread = 8 columns.
__global__ void __launch_bounds__(256)
    combine_kernel(const bf16* y, const int32_t* position, const float* weight, float* h,
                   PrefillNormArgs next) {
  const int64_t row = blockIdx.x;
  uint4 q[kSlots];
  float w[kSlots];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    q[i] = load_stream(y + size_t(position[row * kSlots + i]) * kHidden + threadIdx.x * 8);
    w[i] = weight[row * kSlots + i];
  }
  float sum[8] = {};
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const uint32_t v[4] = {q[i].x, q[i].y, q[i].z, q[i].w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sum[2 * j] = fmaf(w[i], bf16_low(v[j]), sum[2 * j]);
      sum[2 * j + 1] = fmaf(w[i], bf16_high(v[j]), sum[2 * j + 1]);
    }
  }
  float4* to = reinterpret_cast<float4*>(h + row * kHidden + threadIdx.x * 8);
  float4 a = to[0], b = to[1];
  a.x += sum[0], a.y += sum[1], a.z += sum[2], a.w += sum[3];
  b.x += sum[4], b.y += sum[5], b.z += sum[6], b.w += sum[7];
  to[0] = a;
  to[1] = b;
  if (next.weight != nullptr) norm_row(next, a, b);
}

}  // namespace

int32_t prefill_tile_capacity(int64_t max_pairs) {
  return static_cast<int32_t>((max_pairs / 128 + kExperts + 2) * kDownRowTiles);
}

void prefill_norm(const PrefillNormArgs& args, Stream stream) {
  launch("prefill_norm", norm_kernel, dim3(unsigned(args.rows)), 256, 0, stream, false, args);
}

void prefill_route(const PrefillRouteArgs& args, Stream stream) {
  launch("prefill_route", route_kernel, dim3(ceil_div(args.rows, 8)), 256, 0, stream, false, args);
  launch("prefill_table", table_kernel, dim3(4), 1024, 0, stream, false, args);
  const int pairs = static_cast<int>(args.rows) * kSlots;
  launch("prefill_place", place_kernel, dim3(ceil_div(pairs, 256)), 256, 0, stream, false,
         args.table, pairs);
}

void prefill_fp8_slots(const PrefillFp8SlotsArgs& args, Stream stream) {
  launch("prefill_fp8_slots", fp8_slots_kernel, dim3(ceil_div(args.rows, 8)), 256, 0, stream, false,
         args);
}

void prefill_combine(const void* y, const PrefillTable& table, float* h, int64_t rows,
                     const PrefillNormArgs& next, Stream stream) {
  launch("prefill_combine", combine_kernel, dim3(unsigned(rows)), 256, 0, stream, false,
         static_cast<const bf16*>(y), table.position, table.weights, h, next);
}

}  // namespace nibble::cuda
