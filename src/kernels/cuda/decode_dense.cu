// Dense kernels of the decode chain: in_proj, router, head (decode_out.cu: out_proj). One row
// unless said.
//
// Weights depend on nothing, so every kernel asks for its first weights before grid_wait(). in_proj
// is a persistent grid of one CTA per SM (its shared memory is padded so that two never share one):
// each warp has a private ring of bulk copies, two rows of BF16 or four of FP8.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/nvfp4.cuh"
#include "kernels/cuda/segments.cuh"

namespace nibble::cuda {
namespace {

constexpr int kRingWarps = 16, kRingSlots = 4, kPanelRows = 16;
/// Rows of an item lie 64 bytes apart from a multiple of 128: the 8 rows of an operand meet
/// different banks.
constexpr int kItemRowBytes = kHidden, kRowStride = kItemRowBytes + 64;
constexpr int kSlotBytes = kPanelRows * kRowStride;
constexpr size_t kRingBytes = size_t{kRingSlots} * kSlotBytes;
constexpr size_t kPadRouter = 60 << 10;
constexpr int kHeadWarps = 16, kHeadSlots = 5;
constexpr size_t kHeadRing = size_t{kHeadWarps} * kHeadSlots * kUnitBytes;

/// The norm's weights in registers: asked for before grid_wait().
template <int kThreads>
struct NormWeights {
  static constexpr int kPairs = kHidden / 2 / kThreads;
  float2 pair[kPairs];
  __device__ __forceinline__ explicit NormWeights(const float* weight) {
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      pair[i] = reinterpret_cast<const float2*>(weight)[i * kThreads + threadIdx.x];
    }
  }
};

/// x[2048] = bf16(rms_norm(h)) into shared memory; all threads of the CTA take part. x16: the same
/// times a power of two in F16 (f16_scale), or null; returns its inverse.
template <int kThreads, bool kF16 = false>
__device__ __forceinline__ float norm_to_shared(const float* h, const NormWeights<kThreads>& w,
                                                float eps, bf16* x, uint32_t* x16 = nullptr) {
  __shared__ float partial[kThreads / 32], tops[kF16 ? kThreads / 32 : 1];
  constexpr int kPairs = NormWeights<kThreads>::kPairs;
  float2 v[kPairs];
  float sum = 0, top = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    v[i] = reinterpret_cast<const float2*>(h)[i * kThreads + threadIdx.x];
    sum += v[i].x * v[i].x + v[i].y * v[i].y;
    if constexpr (kF16) {
      top = fmaxf(top, fabsf(v[i].x * (1.0f + w.pair[i].x)));
      top = fmaxf(top, fabsf(v[i].y * (1.0f + w.pair[i].y)));
    }
  }
  sum = warp_sum(sum);
  if constexpr (kF16) top = warp_max(top);
  if (threadIdx.x % 32 == 0) {
    partial[threadIdx.x / 32] = sum;
    if constexpr (kF16) tops[threadIdx.x / 32] = top;
  }
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += partial[i];
  const float r = rsqrtf(total / kHidden + eps);
  float scale = 1.0f;
  if constexpr (kF16) {
    top = tops[0];
#pragma unroll
    for (int i = 1; i < kThreads / 32; ++i) top = fmaxf(top, tops[i]);
    scale = f16_scale(top * r);
  }
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const uint32_t pair =
        pack_bf16(v[i].x * r * (1.0f + w.pair[i].x), v[i].y * r * (1.0f + w.pair[i].y));
    reinterpret_cast<uint32_t*>(x)[i * kThreads + threadIdx.x] = pair;
    if constexpr (kF16) {
      x16[i * kThreads + threadIdx.x] = pack_f16(bf16_low(pair) * scale, bf16_high(pair) * scale);
    }
  }
  __syncthreads();
  return 1.0f / scale;
}

__device__ __forceinline__ void fma8(float (&acc)[4], const uint4& w, const uint4& x) {
  acc[0] = fmaf(bf16_low(w.x), bf16_low(x.x), acc[0]);
  acc[1] = fmaf(bf16_high(w.x), bf16_high(x.x), acc[1]);
  acc[2] = fmaf(bf16_low(w.y), bf16_low(x.y), acc[2]);
  acc[3] = fmaf(bf16_high(w.y), bf16_high(x.y), acc[3]);
  acc[0] = fmaf(bf16_low(w.z), bf16_low(x.z), acc[0]);
  acc[1] = fmaf(bf16_high(w.z), bf16_high(x.z), acc[1]);
  acc[2] = fmaf(bf16_low(w.w), bf16_low(x.w), acc[2]);
  acc[3] = fmaf(bf16_high(w.w), bf16_high(x.w), acc[3]);
}

// ---------------------------------------------------------------- in_proj

/// A ring of items of 16 rows x 2048 bytes: a panel of FP8 rows, or half of one of BF16 rows. Warp
/// = 128 bytes of every row; the one column of the product is x.
struct Item {
  int panel, half;  // half: of BF16 rows

  __device__ __forceinline__ void advance(const RowPlace& place) {
    half = place.bytes > kItemRowBytes ? half ^ 1 : 0;
    if (half == 0) panel += int(gridDim.x);
  }
};

template <bool kHasFp8>
__global__ void __maxnreg__(56) in_proj_kernel(const __grid_constant__ InProjArgs args) {
  extern __shared__ __align__(128) uint8_t ring[];
  __shared__ __align__(16) bf16 x[kHidden];
  __shared__ __align__(16) uint32_t x16[kHasFp8 ? kHidden / 2 : 4];
  __shared__ float partial[2][kRingWarps][kPanelRows];
  __shared__ uint64_t full[kRingSlots];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  grid_release();
  // Every warp brings in its row of each item.
  Item next{int(blockIdx.x), 0};
  auto issue = [&](int slot) {
    if (next.panel * kPanelRows >= args.rows) return;
    const RowPlace place = find_row(args.segments, next.panel * kPanelRows + warp);
    barrier_expect(&full[slot], kItemRowBytes);
    bulk_load(ring + slot * kSlotBytes + warp * kRowStride, place.data + next.half * kItemRowBytes,
              kItemRowBytes, &full[slot], evict_first_policy());
    next.advance(place);
  };
  if (threadIdx.x == 0) {
    for (int s = 0; s < kRingSlots; ++s) barrier_init(&full[s], kPanelRows);
    barrier_init_fence();
  }
  __syncthreads();
  const NormWeights<kRingWarps * 32> norm(args.norm_weight);
  if (lane == 0) {
    // Two items at a time: what the kernel before still reads must not queue up behind weights.
    for (int s = 0; s < kRingSlots; ++s) {
      if (s >= 2) barrier_wait(&full[s - 2], 0);
      issue(s);
    }
  }
  __syncwarp();
  grid_wait();
  const float factor = norm_to_shared<kRingWarps * 32, kHasFp8>(args.h, norm, args.eps, x, x16);
  const uint4 zero = make_uint4(0, 0, 0, 0);
  uint4 b[4];  // FP8: x in F16 of the warp's 128 k; else x of its 64 k in either half
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const int v =
        kHasFp8 ? warp * 16 + q / 2 * 8 + t * 2 + q % 2 : q / 2 * 128 + warp * 8 + q % 2 * 4 + t;
    const uint4* from =
        kHasFp8 ? reinterpret_cast<const uint4*>(x16) : reinterpret_cast<const uint4*>(x);
    b[q] = g == 0 ? from[v] : zero;
  }
  float acc[2][4] = {};
  Item item{int(blockIdx.x), 0};
  for (int i = 0; item.panel * kPanelRows < args.rows; ++i) {
    const int slot = i % kRingSlots;
    const RowPlace place = find_row(args.segments, item.panel * kPanelRows);
    const uint8_t* from = ring + slot * kSlotBytes + g * kRowStride + warp * 128 + t * 16;
    barrier_wait(&full[slot], i / kRingSlots & 1);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const uint4 low = *reinterpret_cast<const uint4*>(from + j * 64);
      const uint4 high = *reinterpret_cast<const uint4*>(from + 8 * kRowStride + j * 64);
      if (kHasFp8 && place.bytes == kItemRowBytes) {
        multiply_fp8(low, high, b + 2 * j, acc);
      } else {
        uint4 column = kHasFp8 ? zero : item.half == 0 ? b[j] : b[2 + j];
        if (kHasFp8 && g == 0) {
          column = reinterpret_cast<const uint4*>(x)[item.half * 128 + warp * 8 + j * 4 + t];
        }
        mma_bf16(acc[0], low.x, high.x, low.y, high.y, column.x, column.y);
        mma_bf16(acc[1], low.z, high.z, low.w, high.w, column.z, column.w);
      }
    }
    const int panel = item.panel;
    item.advance(place);
    const bool is_done = item.half == 0;
    if (is_done) {
      if (t == 0) {
        partial[i % 2][warp][g] = acc[0][0] + acc[1][0];
        partial[i % 2][warp][g + 8] = acc[0][2] + acc[1][2];
      }
#pragma unroll
      for (int v = 0; v < 4; ++v) acc[0][v] = acc[1][v] = 0;
    }
    __syncthreads();
    if (lane == 0) issue(slot);
    __syncwarp();
    if (is_done && warp == i % kRingWarps) {
      float y = lane < kPanelRows ? partial[i % 2][0][lane] : 0.0f;
#pragma unroll
      for (int w = 1; w < kRingWarps; ++w) y += lane < kPanelRows ? partial[i % 2][w][lane] : 0.0f;
      const float scale = kHasFp8 && place.bytes == kItemRowBytes ? place.scale * factor : 1.0f;
      if (lane < kPanelRows) args.out[panel * kPanelRows + lane] = y * scale;
    }
    __syncwarp();
  }
}

// ---------------------------------------------------------------- router and head

__global__ void __launch_bounds__(256) router_kernel(RouterArgs args) {
  __shared__ __align__(16) bf16 x[kHidden];
  const int lane = threadIdx.x % 32, row = blockIdx.x * 8 + threadIdx.x / 32;
  grid_release();
  uint4 weights[8];
  if (row <= kExperts) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      weights[i] = load_stream(static_cast<const bf16*>(args.weight) + size_t(row) * kHidden +
                               (i * 32 + lane) * 8);
    }
  }
  if (args.later.data != nullptr) prefetch_later(args.later.data, args.later.bytes);
  const NormWeights<256> norm(args.norm_weight);
  grid_wait();
  norm_to_shared<256>(args.h, norm, args.eps, x);
  if (blockIdx.x == 0) {
    static_cast<uint4*>(args.x)[threadIdx.x] = reinterpret_cast<const uint4*>(x)[threadIdx.x];
  }
  if (row > kExperts) return;
  float acc[4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    fma8(acc, weights[i], reinterpret_cast<const uint4*>(x)[i * 32 + lane]);
  }
  const float y = warp_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  if (lane == 0) args.logits[row] = y;
}

__global__ void __launch_bounds__(256) norm_kernel(RmsNormArgs args) {
  const NormWeights<256> norm(args.weight);
  grid_release();
  grid_wait();
  __shared__ __align__(16) bf16 x[kHidden];
  const int64_t from = args.row_index == nullptr ? blockIdx.x : args.row_index[blockIdx.x];
  norm_to_shared<256>(args.x + from * kHidden, norm, args.eps, x);
  static_cast<uint4*>(args.out)[blockIdx.x * int64_t{256} + threadIdx.x] =
      reinterpret_cast<const uint4*>(x)[threadIdx.x];
}

/// One warp per output row, everything of it in flight at once.
__global__ void __launch_bounds__(256, 4) head_kernel(HeadArgs args) {
  const int lane = threadIdx.x % 32;
  const int64_t row = blockIdx.x * int64_t{8} + threadIdx.x / 32;
  uint4 w[8];
  if (row < args.n) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      w[i] =
          load_stream(static_cast<const bf16*>(args.weight) + row * kHidden + (i * 32 + lane) * 8);
    }
  }
  grid_wait();
  grid_release();
  if (row >= args.n) return;
  float acc[4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    fma8(acc, w[i], static_cast<const uint4*>(args.x)[i * 32 + lane]);
  }
  const float y = warp_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  if (lane == 0) args.logits[row] = y;
}

/// NVFP4 units, persistent: a warp takes one panel of 16 rows after the other, its next units in
/// flight.
__global__ void __launch_bounds__(kHeadWarps * 32, 1) head_units_kernel(HeadArgs args) {
  constexpr int kUnits = kHidden / kUnitK;
  extern __shared__ __align__(128) uint8_t rings[];
  __shared__ uint4 x[kHidden / 8];
  __shared__ uint64_t full[kHeadWarps][kHeadSlots];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int step = int(gridDim.x) * kHeadWarps, start = warp * gridDim.x + blockIdx.x;
  const int panels = int(args.n / 16);
  const int count = start < panels ? ((panels - start + step - 1) / step) * kUnits : 0;
  uint8_t* ring = rings + warp * kHeadSlots * kUnitBytes;
  const uint64_t policy = evict_first_policy();
  const auto issue = [&](int i) {
    if (i >= count) return;
    const int64_t unit = int64_t(start + i / kUnits * step) * kUnits + i % kUnits;
    uint64_t* barrier = &full[warp][i % kHeadSlots];
    barrier_expect(barrier, kUnitBytes);
    bulk_load(ring + i % kHeadSlots * kUnitBytes,
              static_cast<const uint8_t*>(args.weight) + unit * kUnitBytes, kUnitBytes, barrier,
              policy);
  };
  if (lane == 0) {
    for (int s = 0; s < kHeadSlots; ++s) barrier_init(&full[warp][s], 1);
    barrier_init_fence();
    for (int s = 0; s < kHeadSlots; ++s) issue(s);
  }
  __syncwarp();
  grid_wait();
  grid_release();
  if (threadIdx.x < kHidden / 8) x[threadIdx.x] = static_cast<const uint4*>(args.x)[threadIdx.x];
  __syncthreads();
  float acc[4][4] = {};
  for (int i = 0; i < count; ++i) {
    barrier_wait(&full[warp][i % kHeadSlots], i / kHeadSlots & 1);
    multiply_unit_shared(ring + i % kHeadSlots * kUnitBytes, x + i % kUnits * 32, acc);
    __syncwarp();
    if (lane == 0) issue(i + kHeadSlots);
    __syncwarp();
    if (i % kUnits != kUnits - 1) continue;
    if (lane % 4 == 0) {
      float* out = args.logits + int64_t(start + i / kUnits * step) * 16 + lane / 4;
      const float scale = args.scale * kUnitFix;
      out[0] = ((acc[0][0] + acc[1][0]) + (acc[2][0] + acc[3][0])) * scale;
      out[8] = ((acc[0][2] + acc[1][2]) + (acc[2][2] + acc[3][2])) * scale;
    }
#pragma unroll
    for (int chain = 0; chain < 4; ++chain) {
#pragma unroll
      for (int v = 0; v < 4; ++v) acc[chain][v] = 0;
    }
    __syncwarp();
  }
}

}  // namespace

void prepare_decode_dense() {
  allow_shared(router_kernel, kPadRouter);
  allow_shared(head_units_kernel, kHeadRing);
  for (auto* kernel : {in_proj_kernel<false>, in_proj_kernel<true>}) {
    allow_shared(kernel, kRingBytes);
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
  cudaFuncSetAttribute(router_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  cudaFuncSetAttribute(norm_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  cudaFuncSetAttribute(head_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
}

void decode_in_proj(const InProjArgs& args, Stream stream) {
  bool has_fp8 = false;
  for (int i = 0; i < args.segments.count; ++i) has_fp8 |= args.segments.format[i] == Format::fp8;
  auto* kernel = has_fp8 ? in_proj_kernel<true> : in_proj_kernel<false>;
  launch("decode_in_proj", kernel, dim3(unsigned(sm_count())), kRingWarps * 32, kRingBytes, stream,
         true, args);
}

void decode_router(const RouterArgs& args, Stream stream) {
  launch("decode_router", router_kernel, dim3(kExperts / 8 + 1), 256, kPadRouter, stream, true,
         args);
}

void decode_norm(const RmsNormArgs& args, Stream stream) {
  launch("decode_norm", norm_kernel, dim3(unsigned(args.rows)), 256, 0, stream, true, args);
}

void decode_head(const HeadArgs& args, Stream stream) {
  if (args.format == Format::nvfp4) {
    launch("decode_head", head_units_kernel, dim3(unsigned(sm_count())), kHeadWarps * 32, kHeadRing,
           stream, true, args);
  } else {
    launch("decode_head", head_kernel, dim3(ceil_div(args.n, 8)), 256, 0, stream, true, args);
  }
}

}  // namespace nibble::cuda
