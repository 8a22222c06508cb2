// Dense kernels of the decode chain: in_proj, out_proj, router, head. One row unless said.
//
// Weights depend on nothing, so every kernel asks for its first weights before grid_wait(). in_proj
// is a persistent grid of one CTA per SM (its shared memory is padded so that two never share one):
// each warp has a private ring of two bulk copies of one row.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/nvfp4.cuh"

namespace nibble::cuda {
namespace {

constexpr int kRingWarps = 16, kRingSlots = 2, kSlotBytes = 2 * kHidden;
constexpr size_t kRingBytes = size_t{kRingWarps} * kRingSlots * kSlotBytes;
constexpr int kOutRows = 16;
constexpr size_t kOutBytes = size_t{kOutRows} * 2 * kMixer, kPadRouter = 60 << 10;

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

/// x[2048] = bf16(rms_norm(h)) into shared memory; all threads of the CTA take part.
template <int kThreads>
__device__ __forceinline__ void norm_to_shared(const float* h, const NormWeights<kThreads>& w,
                                               float eps, bf16* x) {
  __shared__ float partial[kThreads / 32];
  constexpr int kPairs = NormWeights<kThreads>::kPairs;
  float2 v[kPairs];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    v[i] = reinterpret_cast<const float2*>(h)[i * kThreads + threadIdx.x];
    sum += v[i].x * v[i].x + v[i].y * v[i].y;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) total += partial[i];
  const float r = rsqrtf(total / kHidden + eps);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    reinterpret_cast<uint32_t*>(x)[i * kThreads + threadIdx.x] =
        pack_bf16(v[i].x * r * (1.0f + w.pair[i].x), v[i].y * r * (1.0f + w.pair[i].y));
  }
  __syncthreads();
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

/// 8 FP8 weights against 8 BF16 activations.
__device__ __forceinline__ void fma8_fp8(float (&acc)[4], uint2 w, const uint4& x) {
  uint4 pairs;
  decode_fp8x4(w.x, pairs.x, pairs.y);
  decode_fp8x4(w.y, pairs.z, pairs.w);
  fma8(acc, pairs, x);
}

// ---------------------------------------------------------------- in_proj

/// One row of a Segments list.
struct RowPlace {
  const uint8_t* data;
  int bytes;
  float scale;
};

__device__ __forceinline__ RowPlace find_row(const Segments& segments, int row) {
  int begin = 0;
#pragma unroll
  for (int i = 0; i < Segments::kMax; ++i) {
    if (i < segments.count && row < segments.end[i]) {
      const int bytes = segments.format[i] == Format::bf16 ? 2 * kHidden : kHidden;
      return {static_cast<const uint8_t*>(segments.data[i]) + size_t(row - begin) * bytes, bytes,
              segments.scale[i]};
    }
    begin = segments.end[i];
  }
  return {nullptr, 0, 0.0f};
}

template <bool kHasFp8>
__global__ void __launch_bounds__(kRingWarps * 32, 2) in_proj_kernel(InProjArgs args) {
  extern __shared__ __align__(128) uint8_t ring[];
  __shared__ __align__(16) bf16 x[kHidden];
  __shared__ uint64_t full[kRingWarps][kRingSlots];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  grid_release();
  uint8_t* mine = ring + size_t(warp) * kRingSlots * kSlotBytes;
  const int stride = gridDim.x * kRingWarps, first = warp * gridDim.x + blockIdx.x;
  const int count = first < args.rows ? (args.rows - first + stride - 1) / stride : 0;
  const uint64_t policy = evict_first_policy();
  auto issue = [&](int i) {
    const RowPlace place = find_row(args.segments, first + i * stride);
    barrier_expect(&full[warp][i % kRingSlots], place.bytes);
    bulk_load(mine + (i % kRingSlots) * kSlotBytes, place.data, place.bytes,
              &full[warp][i % kRingSlots], policy);
  };
  if (lane == 0) {
    for (int s = 0; s < kRingSlots; ++s) barrier_init(&full[warp][s], 1);
    barrier_init_fence();
    for (int i = 0; i < kRingSlots && i < count; ++i) issue(i);
  }
  __syncwarp();
  const NormWeights<kRingWarps * 32> norm(args.norm_weight);
  grid_wait();
  norm_to_shared<kRingWarps * 32>(args.h, norm, args.eps, x);
  const uint4* x_vectors = reinterpret_cast<const uint4*>(x);
  for (int i = 0; i < count; ++i) {
    const int row = first + i * stride;
    float acc[4] = {0, 0, 0, 0}, scale = 1.0f;
    barrier_wait(&full[warp][i % kRingSlots], (i / kRingSlots) & 1);
    const uint4* slot = reinterpret_cast<const uint4*>(mine + (i % kRingSlots) * kSlotBytes);
    bool is_fp8 = false;
    if constexpr (kHasFp8) {
      const RowPlace place = find_row(args.segments, row);
      is_fp8 = place.bytes == kHidden;
      scale = place.scale;
    }
    if (is_fp8) {
#pragma unroll
      for (int v = 0; v < kHidden / 512; ++v) {
        const uint4 w = slot[v * 32 + lane];
        fma8_fp8(acc, make_uint2(w.x, w.y), x_vectors[(v * 32 + lane) * 2]);
        fma8_fp8(acc, make_uint2(w.z, w.w), x_vectors[(v * 32 + lane) * 2 + 1]);
      }
    } else {
#pragma unroll
      for (int v = 0; v < kHidden / 256; ++v)
        fma8(acc, slot[v * 32 + lane], x_vectors[v * 32 + lane]);
    }
    __syncwarp();
    if (lane == 0 && i + kRingSlots < count) issue(i + kRingSlots);
    const float y = warp_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
    if (lane == 0) args.out[row] = y * scale;
  }
}

// ---------------------------------------------------------------- the convolution window

/// Threads of the grid share out the channels of all sequences: the columns move on by one.
__device__ __forceinline__ void advance_windows(const WindowArgs& args, int thread, int threads) {
  constexpr int kChannels = 8192;
  if (args.window == nullptr) return;
  for (int i = thread; i < args.step.sequences * kChannels; i += threads) {
    const int sequence = i / kChannels, channel = i % kChannels;
    const Sequence s = args.step.sequence[sequence];
    char* base = static_cast<char*>(args.window);
    const bf16* from =
        s.read_slot < 0
            ? nullptr
            : reinterpret_cast<const bf16*>(base + s.read_slot * args.window_stride_bytes);
    bf16* to = reinterpret_cast<bf16*>(base + s.write_slot * args.window_stride_bytes);
    const bf16 second = from == nullptr ? bf16(0.0f) : from[kChannels + channel];
    const bf16 third = from == nullptr ? bf16(0.0f) : from[2 * kChannels + channel];
    to[channel] = second;
    to[kChannels + channel] = third;
    to[2 * kChannels + channel] =
        __float2bfloat16(args.projection[sequence * args.projection_stride + channel]);
  }
}

// ---------------------------------------------------------------- out_proj

/// CTA = 16 rows, warp = one of them: the whole row is one bulk copy, asked for before grid_wait().
template <Format kFormat>
__global__ void __launch_bounds__(kOutRows * 32, 1) out_proj_kernel(OutProjArgs args) {
  constexpr int kRowBytes = kFormat == Format::bf16 ? 2 * kMixer : kMixer;
  extern __shared__ __align__(128) uint8_t rows[];
  __shared__ uint4 x[kMixer / 8];
  __shared__ uint64_t full[kOutRows];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, row = blockIdx.x * kOutRows + warp;
  uint8_t* mine = rows + warp * kRowBytes;
  if (lane == 0) {
    barrier_init(&full[warp], 1);
    barrier_init_fence();
    barrier_expect(&full[warp], kRowBytes);
    bulk_load(mine, static_cast<const uint8_t*>(args.weight) + size_t(row) * kRowBytes, kRowBytes,
              &full[warp], evict_first_policy());
  }
  __syncwarp();
  grid_release();
  grid_wait();
  const float residual = lane == 0 ? args.h[row] : 0.0f;
  const int v = threadIdx.x;  // thread = 8 values
  if (args.x != nullptr) {
    x[v] = static_cast<const uint4*>(args.x)[v];
  } else {
    // Rounded to BF16 as a linear input must be; a head is 16 threads.
    const float4* gated = reinterpret_cast<const float4*>(args.gated) + v * 2;
    const float4 low = gated[0], high = gated[1];
    const float4 q = reinterpret_cast<const float4*>(args.squares)[v / 16];
    const float r = rsqrtf((q.x + q.y + q.z + q.w) / 128 + args.eps);
    x[v] = make_uint4(pack_bf16(low.x * r, low.y * r), pack_bf16(low.z * r, low.w * r),
                      pack_bf16(high.x * r, high.y * r), pack_bf16(high.z * r, high.w * r));
  }
  __syncthreads();
  barrier_wait(&full[warp], 0);
  const uint4* w = reinterpret_cast<const uint4*>(mine);
  float acc[4] = {0, 0, 0, 0};
#pragma unroll
  for (int i = 0; i < kRowBytes / 512; ++i) {
    const uint4 part = w[i * 32 + lane];
    if constexpr (kFormat == Format::bf16) {
      fma8(acc, part, x[i * 32 + lane]);
    } else {
      fma8_fp8(acc, make_uint2(part.x, part.y), x[(i * 32 + lane) * 2]);
      fma8_fp8(acc, make_uint2(part.z, part.w), x[(i * 32 + lane) * 2 + 1]);
    }
  }
  const float y = warp_sum((acc[0] + acc[1]) + (acc[2] + acc[3]));
  if (lane == 0) args.h[row] = residual + y * args.scale;
  advance_windows(args.window, blockIdx.x * blockDim.x + threadIdx.x, gridDim.x * blockDim.x);
}

/// Thread = two values of one row.
__global__ void __launch_bounds__(256) gated_kernel(GatedArgs args) {
  grid_wait();
  grid_release();
  const int i = blockIdx.x * 256 + threadIdx.x;
  const int row = i / (kMixer / 2), pair = i % (kMixer / 2), head = pair / 64;
  if (row < args.rows) {
    const float4 q = reinterpret_cast<const float4*>(args.squares)[row * 32 + head];
    const float r = rsqrtf((q.x + q.y + q.z + q.w) / 128 + args.eps);
    const float2 v = reinterpret_cast<const float2*>(args.gated)[i];
    static_cast<uint32_t*>(args.out)[i] = pack_bf16(v.x * r, v.y * r);
  }
  advance_windows(args.window, i, gridDim.x * 256);
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
  grid_wait();
  grid_release();
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

/// NVFP4 units, a warp per panel of 16 rows: the units of a panel follow each other two at a time.
__global__ void __launch_bounds__(256) head_units_kernel(HeadArgs args) {
  constexpr int kUnits = kHidden / kUnitK;
  __shared__ uint4 x[kHidden / 8];
  const int lane = threadIdx.x % 32;
  const int64_t panel = blockIdx.x * int64_t{8} + threadIdx.x / 32;
  const bool exists = panel * 16 < args.n;
  const uint8_t* from = static_cast<const uint8_t*>(args.weight) + panel * kUnits * kUnitBytes;
  UnitRegisters units[2];
  if (exists) {
    units[0].load(from);
    units[1].load(from + kUnitBytes);
  }
  grid_wait();
  grid_release();
  x[threadIdx.x] = static_cast<const uint4*>(args.x)[threadIdx.x];
  __syncthreads();
  if (!exists) return;
  float acc[4][4] = {};
#pragma unroll
  for (int unit = 0; unit < kUnits; ++unit) {
    const UnitRegisters now = units[unit % 2];
    if (unit + 2 < kUnits) units[unit % 2].load(from + (unit + 2) * kUnitBytes);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      uint4 first = make_uint4(0, 0, 0, 0), second = first;
      if (lane < 4) {  // the one row is column 0
        first = x[unit * 32 + c * 8 + lane * 2];
        second = x[unit * 32 + c * 8 + lane * 2 + 1];
      }
      uint32_t a[16];
      decode_a(now.codes[c], now.two_scales(c), a);
      mma_bf16(acc[0], a[0], a[1], a[2], a[3], first.x, first.y);
      mma_bf16(acc[1], a[4], a[5], a[6], a[7], first.z, first.w);
      mma_bf16(acc[2], a[8], a[9], a[10], a[11], second.x, second.y);
      mma_bf16(acc[3], a[12], a[13], a[14], a[15], second.z, second.w);
    }
  }
  if (lane % 4 == 0) {
    float* out = args.logits + panel * 16 + lane / 4;
    out[0] = ((acc[0][0] + acc[1][0]) + (acc[2][0] + acc[3][0])) * (args.scale * kUnitFix);
    out[8] = ((acc[0][2] + acc[1][2]) + (acc[2][2] + acc[3][2])) * (args.scale * kUnitFix);
  }
}

}  // namespace

void prepare_decode_dense() {
  allow_shared(in_proj_kernel<false>, kRingBytes);
  allow_shared(in_proj_kernel<true>, kRingBytes);
  allow_shared(out_proj_kernel<Format::bf16>, kOutBytes);
  allow_shared(out_proj_kernel<Format::fp8>, kOutBytes);
  allow_shared(router_kernel, kPadRouter);
  for (auto* kernel : {in_proj_kernel<false>, in_proj_kernel<true>}) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
  for (auto* kernel : {out_proj_kernel<Format::bf16>, out_proj_kernel<Format::fp8>}) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
  cudaFuncSetAttribute(router_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  cudaFuncSetAttribute(gated_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
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

void decode_out_proj(const OutProjArgs& args, Stream stream) {
  auto* kernel =
      args.format == Format::fp8 ? out_proj_kernel<Format::fp8> : out_proj_kernel<Format::bf16>;
  launch("decode_out_proj", kernel, dim3(kHidden / kOutRows), kOutRows * 32,
         args.format == Format::fp8 ? kOutBytes / 2 : kOutBytes, stream, true, args);
}

void decode_gated(const GatedArgs& args, Stream stream) {
  launch("decode_gated", gated_kernel, dim3(ceil_div(args.rows * (kMixer / 2), 256)), 256, 0,
         stream, true, args);
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
    launch("decode_head", head_units_kernel, dim3(ceil_div(args.n, 128)), 256, 0, stream, true,
           args);
  } else {
    launch("decode_head", head_kernel, dim3(ceil_div(args.n, 8)), 256, 0, stream, true, args);
  }
}

}  // namespace nibble::cuda
