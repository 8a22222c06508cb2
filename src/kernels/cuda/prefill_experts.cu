// The expert layer of large steps: the two grouped products over the tiles of prefill_route.cu.
//
// Operands are swapped, 64 weight rows are wgmma's M (four 16-row panels, one per
// warp, decoded straight into the A registers), tokens are its N. A lane of a unit holds 16
// consecutive k of its two rows, which is not the order of the A registers, so the activations are
// stored with k permuted inside every block of 64. CTA = one producer warpgroup (bulk copies of
// units; cp.async gathers of token rows into 128-byte swizzled tiles) and two consumer warpgroups
// of 2 x 64 weight rows each. Operands are BF16 or, where the rows carry scales, E4M3: a stage of
// 128 bytes a row then holds 128 k instead of 64. ptxas: waits, then decode + fence + wgmma in one
// block, or it serialises them (C7513); two N variants per kernel, not more (C7512).
#include "kernels/cuda/matrices.cuh"
#include "kernels/cuda/nvfp4_fp8.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/wgmma.cuh"

namespace nibble::cuda {
namespace {

constexpr int kSlots = kRouted + 1;

/// Shape of a product. kLowN, kMaxN: the two tile widths it knows.
template <typename Operand_, bool kGateUp_, int kLowN_, int kMaxN_, int kStagesB_>
struct Shape {
  using Operand = Operand_;
  static constexpr bool kFp8 = sizeof(Operand) == 1, kGateUp = kGateUp_;
  static constexpr int kLowN = kLowN_, kMaxN = kMaxN_, kMT = 2, kStagesA = 2, kStagesB = kStagesB_;
  static constexpr int kK = kGateUp ? kHidden : kInner, kRowBytes = kK * int(sizeof(Operand));
  // A stage of 128 bytes a row: one or two chunks of 64 k.
  static constexpr int kChunks = kFp8 ? 2 : 1, kStages = kRowBytes / 128;
  static constexpr int kTileRows = 128 * kMT, kPanels = kTileRows / 16, kUnits = kK / kUnitK;
  static constexpr int kSlotA = kPanels * kUnitBytes, kSlotB = kMaxN * 128;
  // One row of staging = the outputs of one token from one warpgroup (+ 16 bytes against bank
  // conflicts).
  static constexpr int kOutBytes = 64 * kMT * (kGateUp ? 1 : 2), kPitch = kOutBytes + 16;
  static constexpr int kOffsetA = kStagesB * kSlotB;
  static constexpr int kOffsetStaging = kOffsetA + (kStagesA * kSlotA + 1023) / 1024 * 1024;
  static constexpr int kShared = kOffsetStaging + 2 * kMaxN * kPitch + 1024;
  static constexpr int kTables = kFp8 ? 8 * kFp8Scales + 8 * kMaxN : 0;
  static_assert(kShared + kTables <= 232448 - 512);
};

template <typename S>
struct Ring {
  uint64_t full_a[S::kStagesA], empty_a[S::kStagesA], full_b[S::kStagesB], empty_b[S::kStagesB];
};

/// Besides: what a product on E4M3 keeps in shared memory.
template <typename S>
struct Tables {
  uint2 magnitudes[S::kFp8 ? kFp8Scales : 1];
  float row_scales[2][S::kFp8 ? S::kMaxN : 1];  // of each warpgroup's tile: factors of its columns
};

/// A lane's part of a stage of one panel, loaded before the waits and decoded behind them.
template <bool kFp8>
struct PanelStage {
  uint4 codes;
  uint32_t scales;
  __device__ __forceinline__ void load(const uint8_t* unit, int chunk, const uint2*) {
    const int lane = threadIdx.x % 32;
    codes = *reinterpret_cast<const uint4*>(unit + chunk * 512 + lane * 16);
    scales = *reinterpret_cast<const uint16_t*>(unit + 2048 + lane * 8 + 2 * chunk);
  }
  __device__ __forceinline__ void decode(uint32_t (&a)[16]) const { decode_a(codes, scales, a); }
};
template <>
struct PanelStage<true> {
  uint4 codes[2];
  uint2 low[2], high[2];
  __device__ __forceinline__ void load(const uint8_t* unit, int chunk, const uint2* magnitudes) {
    const int lane = threadIdx.x % 32;
    const uint32_t scales = *reinterpret_cast<const uint32_t*>(unit + 2048 + lane * 8 + 2 * chunk);
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      codes[c] = *reinterpret_cast<const uint4*>(unit + (chunk + c) * 512 + lane * 16);
      low[c] = magnitudes[scales >> (16 * c) & 0xFF];
      high[c] = magnitudes[scales >> (16 * c + 8) & 0xFF];
    }
  }
  __device__ __forceinline__ void decode(uint32_t (&a)[16]) const {
#pragma unroll
    for (int c = 0; c < 2; ++c) decode_a_fp8(codes[c], low[c], high[c], a + 8 * c);
  }
};

/// One launch: a list of tiles.
struct LaunchArgs {
  GroupedArgs grouped;
  const Tile* tiles;
  const int32_t* count;
};

__device__ __forceinline__ void warpgroup_sync(int id) {
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
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
    const uint8_t* rows = static_cast<const uint8_t*>(grouped.x) + column * 16;
    int row[S::kMaxN / 16];
#pragma unroll
    for (int i = 0; i < S::kMaxN / 16; ++i) {
      const int at = tile.first + min(me / 8 + i * 16, tile.count - 1);
      row[i] = S::kGateUp ? grouped.table.pairs[at] / kSlots : at;
    }
    const uint32_t to = shared_address(shared) + (me / 8) * 128 + ((column ^ (me / 8 & 7)) << 4);
#pragma unroll 1
    for (int k = 0; k < S::kStages; ++k, ++ib) {
      if (k * S::kChunks % 4 == 0 && me < 32) {
        const int slot = ia % S::kStagesA;
        barrier_wait(&ring.empty_a[slot], (ia / S::kStagesA & 1) ^ 1);
        if (lane == 0) barrier_expect(&ring.full_a[slot], S::kSlotA);
        __syncwarp();
        if (lane < S::kPanels) {
          asm volatile(
              "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
              "[%3];" ::"r"(
                  shared_address(shared + S::kOffsetA + slot * S::kSlotA + lane * kUnitBytes)),
              "l"(panels + size_t(lane * S::kUnits + k * S::kChunks / 4) * kUnitBytes),
              "r"(kUnitBytes), "r"(shared_address(&ring.full_a[slot]))
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
              "l"(rows + size_t(row[i]) * S::kRowBytes + k * 128)
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
                                            uint8_t* shared, const float* row_scales,
                                            float (&acc)[S::kMT][N / 2]) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  constexpr int kPitch = S::kPitch;
  uint8_t* staging = shared + S::kOffsetStaging + group * S::kMaxN * kPitch;
  const Bank& bank = bank_of(args.grouped, tile.expert);
  const int expert = tile.expert == kExperts ? 0 : tile.expert;
  constexpr float kFix = S::kFp8 ? kFp8UnitFix : kUnitFix;
  const float first_scale = bank.scales[S::kGateUp ? 2 * expert : expert] * kFix;
  const float up_scale = S::kGateUp ? bank.scales[2 * expert + 1] * kFix : 0.0f;
  const auto column_scales = [&](int j) {
    return S::kFp8 ? *reinterpret_cast<const float2*>(row_scales + 8 * j + lane % 4 * 2)
                   : make_float2(1.0f, 1.0f);
  };
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
          const float2 c = column_scales(j + i);
          r[i] = pack_bf16(silu_fast(d[0] * (first_scale * c.x)) * (d[2] * (up_scale * c.x)),
                           silu_fast(d[1] * (first_scale * c.y)) * (d[3] * (up_scale * c.y)));
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
        const float2 c0 = column_scales(j), c1 = column_scales(j + 1);
        store_matrices_transposed(
            shared_address(staging + (j * 8 + (lane & 7) + lane / 16 * 8) * kPitch + panel * 32 +
                           (lane / 8 & 1) * 16),
            pack_bf16(d[0] * (first_scale * c0.x), d[1] * (first_scale * c0.y)),
            pack_bf16(d[2] * (first_scale * c0.x), d[3] * (first_scale * c0.y)),
            pack_bf16(d[4] * (first_scale * c1.x), d[5] * (first_scale * c1.y)),
            pack_bf16(d[6] * (first_scale * c1.x), d[7] * (first_scale * c1.y)));
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
    if constexpr (S::kGateUp && !S::kFp8) {  // 64 inner columns = one permuted block
      const uint32_t* w = reinterpret_cast<const uint32_t*>(from);
      q = make_uint4(w[v], w[v + 8], w[v + 16], w[v + 24]);
    }
    *reinterpret_cast<uint4*>(out + size_t(token) * kColumns * 2 + v * 16) = q;
  }
}

template <typename S, int N>
__device__ __forceinline__ void consume(const LaunchArgs& args, const Tile& tile, uint8_t* shared,
                                        Ring<S>& ring, Tables<S>& tables, int& ia, int& ib) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  float row_scale = 0;  // of this thread's column, asked for long before finish_tile()
  if (S::kFp8 && threadIdx.x % 128 < tile.count) {
    const int at = tile.first + threadIdx.x % 128;
    row_scale = args.grouped.x_scales[S::kGateUp ? args.grouped.table.pairs[at] / kSlots : at];
  }
  float acc[S::kMT][N / 2];
  uint32_t a[2][16];
  // Explicit zeros: accumulators that are read before they are written count as live in all N
  // variants.
#pragma unroll
  for (int i = 0; i < S::kMT * N / 2; ++i) acc[i / (N / 2)][i % (N / 2)] = 0.0f;
  const uint32_t tiles_b = shared_address(shared);
  const uint8_t* slots_a = shared + S::kOffsetA + (group * S::kMT * 4 + warp) * kUnitBytes;
#pragma unroll 1
  for (int k = 0; k < S::kStages; ++k) {
#pragma unroll
    for (int mt = 0; mt < 2; ++mt) {
      const int chunk = k * S::kChunks & 3, slot_a = ia % S::kStagesA, slot_b = ib % S::kStagesB;
      if (mt == 0) {
        if (chunk == 0) barrier_wait(&ring.full_a[slot_a], ia / S::kStagesA & 1);
        barrier_wait(&ring.full_b[slot_b], ib / S::kStagesB & 1);
        async_fence();
      }
      const uint8_t* unit = slots_a + slot_a * S::kSlotA + mt * 4 * kUnitBytes;
      PanelStage<S::kFp8> panel;
      panel.load(unit, chunk, tables.magnitudes);
      wgmma_wait<1>();  // the products before the last ones are done: a[mt] and an earlier B slot
                        // are free
      if (mt == 1 && k > 0) {
        if (lane == 0) barrier_arrive(&ring.empty_b[(ib + S::kStagesB - 1) % S::kStagesB]);
      }
      panel.decode(a[mt]);
      const uint64_t b = tile_descriptor(tiles_b + slot_b * S::kSlotB);
      wgmma_fence();
#pragma unroll
      for (int s = 0; s < 4; ++s)
        Wgmma<typename S::Operand, N>::rs(acc[mt], &a[mt][4 * s], b + 2 * s);
      wgmma_commit();
      if (chunk + S::kChunks == 4 && mt == 1) {
        __syncwarp();
        if (lane == 0) barrier_arrive(&ring.empty_a[slot_a]);
        ++ia;
      }
      if (mt == 1) ++ib;
    }
  }
  wgmma_wait<0>();
  if (lane == 0) barrier_arrive(&ring.empty_b[(ib - 1 + S::kStagesB) % S::kStagesB]);
  if (S::kFp8 && threadIdx.x % 128 < N) tables.row_scales[group][threadIdx.x % 128] = row_scale;
  finish_tile<S, N>(args, tile, shared, tables.row_scales[group], acc);
}

template <typename S>
__global__ void __launch_bounds__(384, 1) grouped_kernel(LaunchArgs args) {
  extern __shared__ uint8_t raw[];
  __shared__ Ring<S> ring;
  __shared__ Tables<S> tables;
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
  if (S::kFp8) fill_fp8_table(tables.magnitudes);
  __syncthreads();
  grid_release();  // the second launch of a product may fill SMs as they fall idle
  const int tile_count = *args.count;
  if (threadIdx.x < 128) {
    give_registers<40>();
    produce<S>(args, tile_count, shared, ring);
    grid_wait();  // only so that what follows starts behind both launches
  } else {
    take_registers<232>();
    int ia = 0, ib = 0;
    for (int index = blockIdx.x; index < tile_count; index += gridDim.x) {
      const Tile tile = args.tiles[index];
      if (tile.columns == S::kMaxN) {
        consume<S, S::kMaxN>(args, tile, shared, ring, tables, ia, ib);
      } else {
        consume<S, S::kLowN>(args, tile, shared, ring, tables, ia, ib);
      }
    }
  }
}

template <typename Operand, bool kGateUp>
using Wide = Shape<Operand, kGateUp, 96, 128, 5>;
template <typename Operand, bool kGateUp>
using Narrow = Shape<Operand, kGateUp, 32, 64, 6>;

/// The wide tiles, then the narrow ones, which start as SMs fall idle.
template <typename Operand, bool kGateUp>
void launch_grouped(const GroupedArgs& args, Stream stream) {
  using W = Wide<Operand, kGateUp>;
  using N = Narrow<Operand, kGateUp>;
  const int list = kGateUp ? 0 : 2;
  const auto list_of = [&](int i) {
    return LaunchArgs{args, args.table.tiles + int64_t(list + i) * args.table.tile_capacity,
                      args.table.counts + list + i};
  };
  const dim3 grid(static_cast<unsigned>(sm_count()));
  launch("prefill_experts_wide", grouped_kernel<W>, grid, 384, W::kShared, stream, false,
         list_of(0));
  launch("prefill_experts_narrow", grouped_kernel<N>, grid, 384, N::kShared, stream, true,
         list_of(1));
}

template <bool kGateUp>
void launch_grouped(const GroupedArgs& args, Stream stream) {
  if (args.x_scales != nullptr) return launch_grouped<__nv_fp8_e4m3, kGateUp>(args, stream);
  launch_grouped<bf16, kGateUp>(args, stream);
}

template <typename Operand, bool kGateUp>
void allow_grouped() {
  allow_shared(grouped_kernel<Wide<Operand, kGateUp>>, Wide<Operand, kGateUp>::kShared);
  allow_shared(grouped_kernel<Narrow<Operand, kGateUp>>, Narrow<Operand, kGateUp>::kShared);
}

}  // namespace

void prefill_gate_up(const GroupedArgs& args, Stream stream) {
  launch_grouped<true>(args, stream);
}
void prefill_down(const GroupedArgs& args, Stream stream) {
  launch_grouped<false>(args, stream);
}

void prepare_prefill_attention();
void prepare_prefill_delta();
void prepare_prefill() {
  allow_grouped<bf16, true>();
  allow_grouped<bf16, false>();
  allow_grouped<__nv_fp8_e4m3, true>();
  allow_grouped<__nv_fp8_e4m3, false>();
  prepare_prefill_attention();
  prepare_prefill_delta();
}

}  // namespace nibble::cuda
