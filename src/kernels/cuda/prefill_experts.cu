// The expert layer of large steps: norm, routing, tiles, two grouped products, weighted sum.
//
// Grouped product: operands are swapped, 64 weight rows are wgmma's M (four 16-row panels, one per
// warp, decoded straight into the A registers), tokens are its N. A lane of a unit holds 16
// consecutive k of its two rows, which is not the order of the A registers, so the activations are
// stored with k permuted inside every block of 64. CTA = one producer warpgroup (bulk copies of
// units; cp.async gathers of token rows into 128-byte swizzled tiles) and two consumer warpgroups
// of 2 x 64 weight rows each. ptxas: waits, then decode + fence + wgmma in one block, or it
// serialises them (C7513); two N variants per kernel, not more (C7512).
#include "kernels/cuda/nvfp4.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/route.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace nibble::cuda {
namespace {

constexpr int kSlots = kRouted + 1, kGateUpRowTiles = 2 * kInner / 256,
              kDownRowTiles = kHidden / 256;

/// Where element k of an activation row is stored.
__host__ __device__ constexpr int permuted_k(int k) {
  const int t = k % 64 / 16, s = k % 16 / 4, h = k % 4 / 2, e = k % 2;
  return k / 64 * 64 + 16 * s + 8 * h + 2 * t + e;
}

// ---------------------------------------------------------------- norm and routing

/// CTA = row, thread = 8 values.
__global__ void __launch_bounds__(256) norm_kernel(PrefillNormArgs args) {
  const int64_t row = blockIdx.x;
  const int k = threadIdx.x * 8;
  const float4* from = reinterpret_cast<const float4*>(args.h + row * kHidden + k);
  const float4* weight = reinterpret_cast<const float4*>(args.weight + k);
  const float4 a = from[0], b = from[1], wa = weight[0], wb = weight[1];
  const float square =
      a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
  const float r = rsqrtf(block_sum(square) / kHidden + args.eps);
  uint32_t w[4] = {pack_bf16(a.x * r * (1.0f + wa.x), a.y * r * (1.0f + wa.y)),
                   pack_bf16(a.z * r * (1.0f + wa.z), a.w * r * (1.0f + wa.w)),
                   pack_bf16(b.x * r * (1.0f + wb.x), b.y * r * (1.0f + wb.y)),
                   pack_bf16(b.z * r * (1.0f + wb.z), b.w * r * (1.0f + wb.w))};
  *reinterpret_cast<uint4*>(static_cast<bf16*>(args.x) + row * kHidden + k) =
      make_uint4(w[0], w[1], w[2], w[3]);
  const uint4 gate = reinterpret_cast<const uint4*>(args.gate_weight)[threadIdx.x];
  const uint32_t g[4] = {gate.x, gate.y, gate.z, gate.w};
  float dot = 0;
  bf16* permuted = static_cast<bf16*>(args.permuted) + row * kHidden;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    dot = fmaf(bf16_low(w[i]), bf16_low(g[i]), fmaf(bf16_high(w[i]), bf16_high(g[i]), dot));
    *reinterpret_cast<uint32_t*>(permuted + permuted_k(k + 2 * i)) = w[i];
  }
  dot = block_sum(dot);
  if (threadIdx.x == 0) args.logits[row * kLogitStride + kExperts] = dot;
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
  args.table.position[pair] = id == kExperts ? int(row) : atomicAdd(&args.table.count[id], 1);
  if (args.experts_out != nullptr && lane < kRouted) args.experts_out[row * kRouted + lane] = id;
}

/// Thread = pair: to its place in the sorted list.
__global__ void __launch_bounds__(256) place_kernel(PrefillTable table, int pairs) {
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

/// One CTA: begins, and the tiles of experts by falling count. A list of widths 96 and 128 and one
/// of 32 and 64 for each product; the row tiles of the same columns lie behind each other. Leaves
/// the counters at zero.
__global__ void __launch_bounds__(1024) table_kernel(PrefillRouteArgs args) {
  constexpr int kIds = kExperts + 1;
  __shared__ int count[kIds], first[kIds], order[kIds], wide_ends[kIds], narrow_ends[kIds];
  const int me = threadIdx.x;
  const int mine = me < kExperts ? args.table.count[me] : me == kExperts ? int(args.rows) : 0;
  if (me < kIds) {
    count[me] = mine;
    args.table.count[me] = 0;
  }
  const int end = scan_block(mine);
  if (me < kIds) {
    first[me] = args.table.first[me] = end - mine;
    int rank = 0;
    for (int o = 0; o < kIds; ++o) rank += count[o] > mine || (count[o] == mine && o < me);
    order[rank] = me;
  }
  __syncthreads();
  const int n = me < kIds ? count[order[me]] : 0;
  const int wide = n / 128 + (n % 128 > 64 ? 1 : 0), narrow = n % 128 > 0 && n % 128 <= 64 ? 1 : 0;
  const int wide_end = scan_block(wide), narrow_end = scan_block(narrow);
  if (me < kIds) {
    wide_ends[me] = wide_end;
    narrow_ends[me] = narrow_end;
  }
  if (me == kIds - 1) {
    args.table.counts[0] = wide_end * kGateUpRowTiles;
    args.table.counts[1] = narrow_end * kGateUpRowTiles;
    args.table.counts[2] = wide_end * kDownRowTiles;
    args.table.counts[3] = narrow_end * kDownRowTiles;
  }
  __syncthreads();
#pragma unroll 1
  for (int list = 0; list < 4; ++list) {
    const bool is_narrow = list % 2 == 1;
    const int* ends = is_narrow ? narrow_ends : wide_ends;
    const int row_tiles = list < 2 ? kGateUpRowTiles : kDownRowTiles;
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
}

// ---------------------------------------------------------------- grouped product

/// Shape of a product. kLowN, kMaxN: the two tile widths it knows.
template <bool kGateUp_, int kLowN_, int kMaxN_, int kStagesB_>
struct Shape {
  static constexpr bool kGateUp = kGateUp_;
  static constexpr int kLowN = kLowN_, kMaxN = kMaxN_, kMT = 2, kStagesA = 2, kStagesB = kStagesB_;
  static constexpr int kK = kGateUp ? kHidden : kInner;
  static constexpr int kTileRows = 128 * kMT, kPanels = kTileRows / 16, kUnits = kK / kUnitK;
  static constexpr int kSlotA = kPanels * kUnitBytes, kSlotB = kMaxN * 128;
  // One row of staging = the outputs of one token from one warpgroup (+ 16 bytes against bank
  // conflicts).
  static constexpr int kOutBytes = 64 * kMT * (kGateUp ? 1 : 2), kPitch = kOutBytes + 16;
  static constexpr int kOffsetA = kStagesB * kSlotB;
  static constexpr int kOffsetStaging = kOffsetA + (kStagesA * kSlotA + 1023) / 1024 * 1024;
  static constexpr int kShared = kOffsetStaging + 2 * kMaxN * kPitch + 1024;
  static_assert(kShared <= 232448 - 512);
};

template <typename S>
struct Ring {
  uint64_t full_a[S::kStagesA], empty_a[S::kStagesA], full_b[S::kStagesB], empty_b[S::kStagesB];
};

/// One launch: a list of tiles.
struct LaunchArgs {
  GroupedArgs grouped;
  const Tile* tiles;
  const int32_t* count;
};

__device__ __forceinline__ void async_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
__device__ __forceinline__ void warpgroup_sync(int id) {
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}
__device__ __forceinline__ void store_matrices_transposed(uint32_t at, uint32_t a, uint32_t b,
                                                          uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(at),
               "r"(a), "r"(b), "r"(c), "r"(d)
               : "memory");
}
/// x * sigmoid(x) without an IEEE division.
__device__ __forceinline__ float silu_fast(float x) {
  return __fdividef(x, 1.0f + __expf(-x));
}

__device__ __forceinline__ const Bank& bank_of(const GroupedArgs& args, int expert) {
  return expert == kExperts ? args.shared : args.bank;
}

template <typename S>
__device__ __forceinline__ void produce(const LaunchArgs& args, int tile_count, uint8_t* shared,
                                        Ring<S>& ring) {
  const int me = threadIdx.x, lane = me % 32, column = me & 7;
  const GroupedArgs& grouped = args.grouped;
  int ib = 0, ia = 0;  // stages issued so far
  for (int index = blockIdx.x; index < tile_count; index += gridDim.x) {
    const Tile tile = args.tiles[index];
    const Bank& bank = bank_of(grouped, tile.expert);
    const uint8_t* panels = bank.data + (tile.expert == kExperts ? 0 : tile.expert * bank.stride) +
                            size_t(tile.row_tile) * S::kPanels * S::kUnits * kUnitBytes;
    int row[S::kMaxN / 16];
#pragma unroll
    for (int i = 0; i < S::kMaxN / 16; ++i) {
      const int at = tile.first + min(me / 8 + i * 16, tile.count - 1);
      row[i] = S::kGateUp ? grouped.table.pairs[at] / kSlots : at;
    }
    const uint32_t to = shared_address(shared) + (me / 8) * 128 + ((column ^ (me / 8 & 7)) << 4);
#pragma unroll 1
    for (int k = 0; k < S::kK / 64; ++k, ++ib) {
      if (k % 4 == 0 && me < 32) {
        const int slot = ia % S::kStagesA;
        barrier_wait(&ring.empty_a[slot], (ia / S::kStagesA & 1) ^ 1);
        if (lane == 0) barrier_expect(&ring.full_a[slot], S::kSlotA);
        __syncwarp();
        if (lane < S::kPanels) {
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
              "[%3];" ::"r"(
                  shared_address(shared + S::kOffsetA + slot * S::kSlotA + lane * kUnitBytes)),
              "l"(panels + size_t(lane * S::kUnits + k / 4) * kUnitBytes), "r"(kUnitBytes),
              "r"(shared_address(&ring.full_a[slot]))
              : "memory");
        }
        ++ia;
      }
      const int slot = ib % S::kStagesB;
      barrier_wait(&ring.empty_b[slot], (ib / S::kStagesB & 1) ^ 1);
#pragma unroll
      for (int i = 0; i < S::kMaxN / 16; ++i) {
        if (i * 16 < tile.columns) {
          asm volatile(
              "cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + slot * S::kSlotB + i * 2048),
              "l"(static_cast<const bf16*>(grouped.x) + size_t(row[i]) * S::kK + k * 64 +
                  column * 8)
              : "memory");
        }
      }
      // Arrives when this thread's copies have landed; the consumers put a proxy fence before
      // wgmma.
      asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                       shared_address(&ring.full_b[slot]))
                   : "memory");
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// Scale, SiLU * up, rows turned into tokens through shared memory, whole lines stored.
template <typename S, int N>
__device__ __forceinline__ void finish_tile(const LaunchArgs& args, const Tile& tile,
                                            uint8_t* shared, float (&acc)[S::kMT][N / 2]) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  constexpr int kPitch = S::kPitch;
  uint8_t* staging = shared + S::kOffsetStaging + group * S::kMaxN * kPitch;
  const Bank& bank = bank_of(args.grouped, tile.expert);
  const int expert = tile.expert == kExperts ? 0 : tile.expert;
  const float first_scale = bank.scales[S::kGateUp ? 2 * expert : expert] * kUnitFix;
  const float up_scale = S::kGateUp ? bank.scales[2 * expert + 1] * kUnitFix : 0.0f;
  warpgroup_sync(1 + group);
#pragma unroll
  for (int mt = 0; mt < S::kMT; ++mt) {
    const int panel = mt * 4 + warp;
    if constexpr (S::kGateUp) {
#pragma unroll
      for (int j = 0; j < N / 8; j += 2) {
        uint32_t r[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const float* d = &acc[mt][4 * (j + i)];
          r[i] = pack_bf16(silu_fast(d[0] * first_scale) * (d[2] * up_scale),
                           silu_fast(d[1] * first_scale) * (d[3] * up_scale));
        }
        asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1,%2};" ::"r"(
                         shared_address(staging + (j * 8 + (lane & 15)) * kPitch + panel * 16)),
                     "r"(r[0]), "r"(r[1])
                     : "memory");
      }
    } else {
#pragma unroll
      for (int j = 0; j < N / 8; j += 2) {
        const float* d = &acc[mt][4 * j];
        store_matrices_transposed(
            shared_address(staging + (j * 8 + (lane & 7) + lane / 16 * 8) * kPitch + panel * 32 +
                           (lane / 8 & 1) * 16),
            pack_bf16(d[0] * first_scale, d[1] * first_scale),
            pack_bf16(d[2] * first_scale, d[3] * first_scale),
            pack_bf16(d[4] * first_scale, d[5] * first_scale),
            pack_bf16(d[6] * first_scale, d[7] * first_scale));
      }
    }
  }
  warpgroup_sync(1 + group);
  constexpr int kVectors = S::kOutBytes / 16, kColumns = S::kGateUp ? kInner : kHidden;
  uint8_t* out = static_cast<uint8_t*>(args.grouped.out) + size_t(tile.first) * kColumns * 2 +
                 (tile.row_tile * 2 + group) * S::kOutBytes;
  for (int i = threadIdx.x % 128; i < tile.count * kVectors; i += 128) {
    const int token = i / kVectors, v = i % kVectors;
    const uint8_t* from = staging + token * kPitch;
    uint4 q = *reinterpret_cast<const uint4*>(from + v * 16);
    if constexpr (S::kGateUp) {  // 64 inner columns = one permuted block
      const uint32_t* w = reinterpret_cast<const uint32_t*>(from);
      q = make_uint4(w[v], w[v + 8], w[v + 16], w[v + 24]);
    }
    *reinterpret_cast<uint4*>(out + size_t(token) * kColumns * 2 + v * 16) = q;
  }
}

template <typename S, int N>
__device__ __forceinline__ void consume(const LaunchArgs& args, const Tile& tile, uint8_t* shared,
                                        Ring<S>& ring, int& ia, int& ib) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  float acc[S::kMT][N / 2];
  uint32_t a[2][16];
  // Explicit zeros: accumulators that are read before they are written count as live in all N
  // variants.
#pragma unroll
  for (int i = 0; i < S::kMT * N / 2; ++i) acc[i / (N / 2)][i % (N / 2)] = 0.0f;
  const uint32_t tiles_b = shared_address(shared);
  const uint8_t* slots_a = shared + S::kOffsetA + (group * S::kMT * 4 + warp) * kUnitBytes;
#pragma unroll 1
  for (int k = 0; k < S::kK / 64; ++k) {
#pragma unroll
    for (int mt = 0; mt < 2; ++mt) {
      const int chunk = k & 3, slot_a = ia % S::kStagesA, slot_b = ib % S::kStagesB;
      if (mt == 0) {
        if (chunk == 0) barrier_wait(&ring.full_a[slot_a], ia / S::kStagesA & 1);
        barrier_wait(&ring.full_b[slot_b], ib / S::kStagesB & 1);
        async_fence();
      }
      const uint8_t* unit = slots_a + slot_a * S::kSlotA + mt * 4 * kUnitBytes;
      const uint4 codes = *reinterpret_cast<const uint4*>(unit + chunk * 512 + lane * 16);
      const uint32_t scales =
          *reinterpret_cast<const uint16_t*>(unit + 2048 + lane * 8 + 2 * chunk);
      wgmma_wait<1>();  // the products before the last ones are done: a[mt] and an earlier B slot
                        // are free
      if (mt == 1 && k > 0) {
        if (lane == 0) barrier_arrive(&ring.empty_b[(ib + S::kStagesB - 1) % S::kStagesB]);
      }
      decode_a(codes, scales, a[mt]);
      const uint64_t b = tile_descriptor(tiles_b + slot_b * S::kSlotB);
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s) Wgmma<N>::rs(acc[mt], &a[mt][4 * s], b + 2 * s);
      wgmma_commit();
      if (chunk == 3 && mt == 1) {
        __syncwarp();
        if (lane == 0) barrier_arrive(&ring.empty_a[slot_a]);
        ++ia;
      }
      if (mt == 1) ++ib;
    }
  }
  wgmma_wait<0>();
  if (lane == 0) barrier_arrive(&ring.empty_b[(ib - 1 + S::kStagesB) % S::kStagesB]);
  finish_tile<S, N>(args, tile, shared, acc);
}

template <typename S>
__global__ void __launch_bounds__(384, 1) grouped_kernel(LaunchArgs args) {
  extern __shared__ uint8_t raw[];
  __shared__ Ring<S> ring;
  uint8_t* shared = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kStagesA; ++i) {
      barrier_init(&ring.full_a[i], 1);
      barrier_init(&ring.empty_a[i], 8);
    }
    for (int i = 0; i < S::kStagesB; ++i) {
      barrier_init(&ring.full_b[i], 128);
      barrier_init(&ring.empty_b[i], 8);
    }
    barrier_init_fence();
  }
  __syncthreads();
  grid_release();  // the second launch of a product may fill SMs as they fall idle
  const int tile_count = *args.count;
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    produce<S>(args, tile_count, shared, ring);
    grid_wait();  // only so that what follows starts behind both launches
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int ia = 0, ib = 0;
    for (int index = blockIdx.x; index < tile_count; index += gridDim.x) {
      const Tile tile = args.tiles[index];
      if (tile.columns == S::kMaxN) {
        consume<S, S::kMaxN>(args, tile, shared, ring, ia, ib);
      } else {
        consume<S, S::kLowN>(args, tile, shared, ring, ia, ib);
      }
    }
  }
}

/// CTA = row, thread = 8 columns.
__global__ void __launch_bounds__(256)
    combine_kernel(const bf16* y, const int32_t* position, const float* weight, float* h) {
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
}

template <bool kGateUp>
using Wide = Shape<kGateUp, 96, 128, 5>;
template <bool kGateUp>
using Narrow = Shape<kGateUp, 32, 64, 6>;

/// The wide tiles, then the narrow ones, which start as SMs fall idle.
template <bool kGateUp>
void launch_grouped(const GroupedArgs& args, Stream stream) {
  const int list = kGateUp ? 0 : 2;
  const auto list_of = [&](int i) {
    return LaunchArgs{args, args.table.tiles + int64_t(list + i) * args.table.tile_capacity,
                      args.table.counts + list + i};
  };
  const dim3 grid(static_cast<unsigned>(sm_count()));
  launch("prefill_experts_wide", grouped_kernel<Wide<kGateUp>>, grid, 384, Wide<kGateUp>::kShared,
         stream, false, list_of(0));
  launch("prefill_experts_narrow", grouped_kernel<Narrow<kGateUp>>, grid, 384,
         Narrow<kGateUp>::kShared, stream, true, list_of(1));
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
  launch("prefill_table", table_kernel, dim3(1), 1024, 0, stream, false, args);
  const int pairs = static_cast<int>(args.rows) * kSlots;
  launch("prefill_place", place_kernel, dim3(ceil_div(pairs, 256)), 256, 0, stream, false,
         args.table, pairs);
}

void prefill_gate_up(const GroupedArgs& args, Stream stream) {
  launch_grouped<true>(args, stream);
}
void prefill_down(const GroupedArgs& args, Stream stream) {
  launch_grouped<false>(args, stream);
}

void prefill_combine(const void* y, const PrefillTable& table, float* h, int64_t rows,
                     Stream stream) {
  launch("prefill_combine", combine_kernel, dim3(unsigned(rows)), 256, 0, stream, false,
         static_cast<const bf16*>(y), table.position, table.weights, h);
}

void prepare_prefill_attention();
void prepare_prefill() {
  allow_shared(grouped_kernel<Wide<true>>, Wide<true>::kShared);
  allow_shared(grouped_kernel<Narrow<true>>, Narrow<true>::kShared);
  allow_shared(grouped_kernel<Wide<false>>, Wide<false>::kShared);
  allow_shared(grouped_kernel<Narrow<false>>, Narrow<false>::kShared);
  prepare_prefill_attention();
}

}  // namespace nibble::cuda
