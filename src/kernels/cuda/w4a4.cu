// W4A4: rows to NVFP4, and the tiled product on mma.m16n8k64.
//
// CTA = 128 weight rows x 128 activation rows, warp = two panels of 16 x 64. Weights go from the
// units straight to registers; activations through two stages of shared memory, 256 k each. A lane
// of a unit holds whole blocks of 16 k, the instruction wants them spread over two lanes:
// neighbours swap one word, which leaves the four blocks of 64 k in the order 0, 2, 1, 3, and the
// bits of eight codes are collected from the unit's spread word in the order of kNibbleCode.
// Activation rows are stored in that order.
#include "kernels/cuda/fp8_rows.cuh"
#include "kernels/cuda/mma_fp4.cuh"
#include "kernels/cuda/w4a4.h"

#include <cuda_fp4.h>

namespace nibble::cuda {
namespace {

constexpr int kTile = 128, kStageK = kUnitK, kThreads = 256, kColumnGroups = 8;
/// Which of eight codes lies in nibble i.
constexpr uint32_t kNibbleCode = 0x71356024;

__device__ __forceinline__ int block_place(int block) {
  return (block & 1) * 2 + block / 2;
}

// ---------------------------------------------------------------- rows

/// A block of 16 values: its scale and codes (code i in bits 4 i).
struct Block {
  uint8_t scale;
  uint64_t codes;
};
__device__ __forceinline__ Block round_block(const float (&x)[16], float row_scale) {
  float amax = 0;
#pragma unroll
  for (float v : x) amax = fmaxf(amax, fabsf(v));
  Block out;
  out.scale = __nv_cvt_float_to_fp8(amax / (6.0f * row_scale), __NV_SATFINITE, __NV_E4M3);
  out.codes = 0;
  const float scale = e4m3_value(out.scale) * row_scale;
  if (scale == 0) return out;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    const uint64_t code = __nv_cvt_float_to_fp4(x[i] / scale, __NV_E2M1, cudaRoundNearest) & 15;
    out.codes |= code << (4 * i);
  }
  return out;
}

__device__ __forceinline__ void load_block(const bf16* from, float (&x)[16]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 q = reinterpret_cast<const uint4*>(from)[half];
    const uint32_t w[4] = {q.x, q.y, q.z, q.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[8 * half + 2 * i] = bf16_low(w[i]);
      x[8 * half + 2 * i + 1] = bf16_high(w[i]);
    }
  }
}

/// A warp per row: store(block index, block, its row's scale) for every block.
template <typename Store>
__device__ __forceinline__ void round_row(const bf16* x, int64_t k, const Store& store) {
  const int lane = threadIdx.x % 32;
  float block[16], amax = 0;
  for (int64_t b = lane; b < k / 16; b += 32) {
    load_block(x + b * 16, block);
#pragma unroll
    for (float v : block) amax = fmaxf(amax, fabsf(v));
  }
  const float row_scale = power_scale(warp_max(amax), 6.0f * 448.0f);
  for (int64_t b = lane; b < k / 16; b += 32) {
    load_block(x + b * 16, block);
    store(b, round_block(block, row_scale), row_scale);
  }
}

__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const bf16* x, int64_t rows, int64_t k, Fp4Rows to) {
  const int64_t row = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (row >= rows) return;
  round_row(x + row * k, k, [&](int64_t b, const Block& block, float row_scale) {
    if (b == 0) to.row_scales[row] = row_scale;
    const int64_t place = b / 4 * 4 + block_place(int(b % 4));
    to.scales[row * (k / 16) + place] = block.scale;
    uint32_t word[2] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int code = int(kNibbleCode >> (4 * i) & 15);
#pragma unroll
      for (int w = 0; w < 2; ++w) {
        word[w] |= uint32_t(block.codes >> (32 * w + 4 * code) & 15) << (4 * i);
      }
    }
    *reinterpret_cast<uint2*>(to.codes + row * (k / 2) + place * 8) = make_uint2(word[0], word[1]);
  });
}

__global__ void __launch_bounds__(kThreads)
    round_kernel(const bf16* x, int64_t rows, int64_t k, bf16* out) {
  const int64_t row = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (row >= rows) return;
  round_row(x + row * k, k, [&](int64_t b, const Block& block, float row_scale) {
    const float scale = e4m3_value(block.scale) * row_scale;
    for (int i = 0; i < 16; ++i) {
      store_as(out + row * k + b * 16 + i, e2m1_value(int(block.codes >> (4 * i) & 15)) * scale);
    }
  });
}

// ---------------------------------------------------------------- products

enum class Kind { linear, gate_up, down };

struct ProductArgs {
  MoeArgs moe;  // linear: one expert whose pairs are the rows, its scale in `scale`
  Fp4Rows x;
  int64_t out_stride;
  float scale;
  bool accumulate;
};

/// Eight codes of a unit's word, in the order of kNibbleCode (code_bits in nvfp4.cuh).
__device__ __forceinline__ uint32_t collect_codes(uint32_t w) {
  return (w & 0x00070007u) | (w << 1 & 0xC070C070u) | (w << 2 & 0x37003700u) |
         (w >> 6 & 0x00080008u) | (w >> 5 & 0x00800080u) | (w >> 4 & 0x08000800u);
}

/// The A registers and scales of 16 rows x 64 k of a unit.
__device__ __forceinline__ void collect_a(const uint4& codes, uint32_t two_scales, uint32_t (&a)[4],
                                          uint32_t& scales) {
  const bool odd = threadIdx.x % 2 != 0;
  const uint32_t low[2] = {collect_codes(codes.x), collect_codes(codes.y)};
  const uint32_t high[2] = {collect_codes(codes.z), collect_codes(codes.w)};
  const uint32_t other_low = __shfl_xor_sync(~0u, odd ? low[0] : low[1], 1);
  const uint32_t other_high = __shfl_xor_sync(~0u, odd ? high[0] : high[1], 1);
  a[0] = odd ? other_low : low[0];
  a[1] = odd ? other_high : high[0];
  a[2] = odd ? low[1] : other_low;
  a[3] = odd ? high[1] : other_high;
  // Bytes of a lane: rows g and g + 8. Of two lanes, then of four.
  const uint32_t neighbour = __shfl_xor_sync(~0u, two_scales & 0xFFFF, 1);
  const uint32_t two = odd ? neighbour | two_scales << 16 : (two_scales & 0xFFFF) | neighbour << 16;
  const uint32_t others = __shfl_xor_sync(~0u, two, 2);
  const bool first = threadIdx.x % 4 < 2;
  scales = __byte_perm(first ? two : others, first ? others : two, odd ? 0x7351 : 0x6240);
}

struct Stage {
  uint8_t codes[kTile * kStageK / 2];  // row: 8 pieces of 16 bytes, piece p at p ^ (row & 7)
  uint8_t scales[kTile * kStageK / 16];
};

__device__ __forceinline__ void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}

/// Activation rows of a tile, 256 k from unit on. row_of: shared, the row of each column.
__device__ __forceinline__ void load_stage(const Fp4Rows& x, int64_t k, int unit, const int* row_of,
                                           Stage& stage) {
  for (int i = threadIdx.x; i < kTile * 8; i += kThreads) {
    const int column = i / 8, piece = i % 8;
    copy_async(stage.codes + column * 128 + (piece ^ (column & 7)) * 16,
               x.codes + row_of[column] * (k / 2) + unit * 128 + piece * 16);
  }
  if (threadIdx.x < kTile) {
    copy_async(stage.scales + threadIdx.x * 16,
               x.scales + row_of[threadIdx.x] * (k / 16) + unit * 16);
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// acc += two panels' unit times the 64 columns of this warp.
__device__ __forceinline__ void multiply_stage(const UnitRegisters (&units)[2], const Stage& stage,
                                               int first_column,
                                               float (&acc)[2][kColumnGroups][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    uint32_t a[2][4], a_scales[2];
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      collect_a(units[p].codes[c], units[p].two_scales(c), a[p], a_scales[p]);
    }
#pragma unroll
    for (int n = 0; n < kColumnGroups; ++n) {
      const int column = first_column + n * 8 + g;
      const uint8_t* row = stage.codes + column * 128 + t * 4;
      const uint32_t b[2] = {
          *reinterpret_cast<const uint32_t*>(row + ((2 * c) ^ (column & 7)) * 16),
          *reinterpret_cast<const uint32_t*>(row + ((2 * c + 1) ^ (column & 7)) * 16)};
      const uint32_t b_scales =
          *reinterpret_cast<const uint32_t*>(stage.scales + column * 16 + c * 4);
#pragma unroll
      for (int p = 0; p < 2; ++p) mma_fp4(acc[p][n], a[p], a_scales[p], b, b_scales);
    }
  }
}

/// Scales, SiLU * up or the sum, and out. pair_of: -1 beyond the tile.
template <Kind kKind>
__device__ __forceinline__ void store_tile(const ProductArgs& args, int expert, int64_t first_panel,
                                           int first_column, const int* pair_of, const int* row_of,
                                           const float (&acc)[2][kColumnGroups][4]) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const float* scales = args.moe.bank.scales + expert * (kKind == Kind::gate_up ? 2 : 1);
  const float low_scale = kKind == Kind::linear ? args.scale : scales[0];
  const float high_scale = kKind == Kind::gate_up ? scales[1] : low_scale;
#pragma unroll
  for (int p = 0; p < 2; ++p) {
    const int64_t panel = first_panel + p;
    if (panel * 16 >= args.moe.bank.n) continue;
#pragma unroll
    for (int n = 0; n < kColumnGroups; ++n) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = first_column + n * 8 + 2 * t + e;
        const int64_t pair = pair_of[column];
        if (pair < 0) continue;
        const float scale = args.x.row_scales[row_of[column]];
        const float low = acc[p][n][e] * (scale * low_scale);
        const float high = acc[p][n][2 + e] * (scale * high_scale);
        if constexpr (kKind == Kind::gate_up) {
          store_as(static_cast<bf16*>(args.moe.out) + pair * args.out_stride + panel * 8 + g,
                   silu(low) * high);
        } else if (args.moe.out_type == Element::bf16) {
          bf16* out = static_cast<bf16*>(args.moe.out) + pair * args.out_stride + panel * 16 + g;
          store_as(out, low);
          store_as(out + 8, high);
        } else {
          float* out = static_cast<float*>(args.moe.out) + pair * args.out_stride + panel * 16 + g;
          out[0] = args.accumulate ? out[0] + low : low;
          out[8] = args.accumulate ? out[8] + high : high;
        }
      }
    }
  }
}

/// grid: weight rows / 128, active experts, token tiles (strided).
template <Kind kKind>
__global__ void __launch_bounds__(kThreads) product_kernel(ProductArgs args) {
  __shared__ __align__(16) Stage stages[2];
  __shared__ int pair_of[kTile], row_of[kTile];
  const Bank& bank = args.moe.bank;
  constexpr bool is_linear = kKind == Kind::linear;
  if (!is_linear && int(blockIdx.y) >= args.moe.table.counts[0]) return;
  const int expert = is_linear ? 0 : args.moe.table.active[blockIdx.y];
  const int begin = is_linear ? 0 : args.moe.table.first[expert];
  const int count = is_linear ? int(args.moe.rows) : args.moe.table.first[expert + 1] - begin;
  const int warp = threadIdx.x / 32, units = int(bank.k / kUnitK);
  const int64_t panels = bank.n / 16;
  const int64_t first_panel = blockIdx.x * int64_t{kTile / 16} + warp % 4 * 2;
  const int first_column = warp / 4 * (kTile / 2);
  for (int tile = int(blockIdx.z) * kTile; tile < count; tile += int(gridDim.z) * kTile) {
    __syncthreads();
    if (threadIdx.x < kTile) {
      const int at = tile + int(threadIdx.x);
      const int of = begin + min(at, count - 1), pair = is_linear ? of : args.moe.table.pairs[of];
      pair_of[threadIdx.x] = at < count ? pair : -1;
      row_of[threadIdx.x] = kKind == Kind::gate_up ? pair / args.moe.slots : pair;
    }
    __syncthreads();
    float acc[2][kColumnGroups][4] = {};
    load_stage(args.x, bank.k, 0, row_of, stages[0]);
    for (int unit = 0; unit < units; ++unit) {
      UnitRegisters w[2];
#pragma unroll
      for (int p = 0; p < 2; ++p) {  // beyond the last panel: any panel, not stored
        const int64_t panel = min(first_panel + p, panels - 1);
        w[p].load(bank.data + expert * bank.stride + (panel * units + unit) * kUnitBytes);
      }
      if (unit + 1 < units) {
        load_stage(args.x, bank.k, unit + 1, row_of, stages[(unit + 1) % 2]);
        asm volatile("cp.async.wait_group 1;" ::: "memory");
      } else {
        asm volatile("cp.async.wait_group 0;" ::: "memory");
      }
      __syncthreads();
      multiply_stage(w, stages[unit % 2], first_column, acc);
      __syncthreads();
    }
    store_tile<kKind>(args, expert, first_panel, first_column, pair_of, row_of, acc);
  }
}

/// A CTA for every tile that the experts may have: those beyond an expert's pairs end at once. One
/// expert's pairs beyond kTilesAxis tiles are walked.
constexpr unsigned kTilesAxis = 16;
template <Kind kKind>
void launch_experts(const char* name, const MoeArgs& args, const Fp4Rows& x, int64_t out_stride,
                    Stream stream) {
  const int64_t pairs = args.rows * args.slots;
  const int64_t experts = pairs < args.bank.num_experts ? pairs : args.bank.num_experts;
  const unsigned tiles = ceil_div(args.rows, kTile);
  const dim3 grid(ceil_div(args.bank.n, kTile), unsigned(experts),
                  tiles < kTilesAxis ? tiles : kTilesAxis);
  launch(name, product_kernel<kKind>, grid, kThreads, 0, stream, false,
         ProductArgs{args, x, out_stride, 0.0f, false});
}

}  // namespace

Fp4Rows fp4_rows_at(void* base, int64_t rows, int64_t k) {
  auto* codes = static_cast<uint8_t*>(base);
  uint8_t* row_scales = codes + rows * (k / 2);
  return {codes, row_scales + (rows + 3) / 4 * 16, reinterpret_cast<float*>(row_scales)};
}

void quantize_fp4_rows(const void* x, int64_t rows, int64_t k, const Fp4Rows& to, Stream stream) {
  launch("quantize_fp4_rows", quantize_kernel, dim3(ceil_div(rows, kThreads / 32)), kThreads, 0,
         stream, false, static_cast<const bf16*>(x), rows, k, to);
}

void round_fp4_rows(const void* x, int64_t rows, int64_t k, void* out, Stream stream) {
  launch("round_fp4_rows", round_kernel, dim3(ceil_div(rows, kThreads / 32)), kThreads, 0, stream,
         false, static_cast<const bf16*>(x), rows, k, static_cast<bf16*>(out));
}

bool can_w4a4(const Weight& weight) {
  return weight.format == Format::nvfp4 && has_units(weight.n, weight.k);
}

void linear_w4a4(const LinearArgs& args, const Fp4Rows& x, Stream stream) {
  const Weight& w = args.weight;
  const MoeArgs moe{.bank = {.format = w.format,
                             .data = static_cast<const uint8_t*>(w.data),
                             .stride = 0,
                             .scales = nullptr,
                             .num_experts = 1,
                             .n = w.n,
                             .k = w.k},
                    .experts = nullptr,
                    .table = {},
                    .x = nullptr,
                    .x_type = args.x_type,
                    .out = args.out,
                    .out_type = args.out_type,
                    .rows = args.m,
                    .slots = 1};
  const dim3 grid(ceil_div(w.n, kTile), 1, ceil_div(args.m, kTile));
  launch("linear_w4a4", product_kernel<Kind::linear>, grid, kThreads, 0, stream, false,
         ProductArgs{moe, x, args.out_stride, w.scale, args.accumulate});
}

bool can_moe_w4a4(const Bank& bank) {
  return bank.format == Format::nvfp4 && has_units(bank.n, bank.k);
}

void moe_gate_up_w4a4(const MoeArgs& args, const Fp4Rows& x, Stream stream) {
  launch_experts<Kind::gate_up>("moe_gate_up_w4a4", args, x, args.bank.n / 2, stream);
}

void moe_down_w4a4(const MoeArgs& args, const Fp4Rows& x, Stream stream) {
  launch_experts<Kind::down>("moe_down_w4a4", args, x, args.bank.n, stream);
}

}  // namespace nibble::cuda
