// Row-wise passes of large steps, each reading its inputs once: QK norm + rotary + KV store, and
// the gated norm in front of a DeltaNet layer's output projection.
#include "kernels/cuda/fp8_rows.cuh"
#include "kernels/cuda/matrices.cuh"
#include "kernels/cuda/prefill.h"

namespace nibble::cuda {
namespace {

constexpr int kDim = 256, kPage = 64, kPairs = 32, kRotaryWarps = 10;

/// Eight values to the cache.
__device__ __forceinline__ void store_cache(const KvCache& cache, void* base, float scale,
                                            int64_t at, const float (&x)[8]) {
  if (cache.type == Element::bf16) {
    *reinterpret_cast<uint4*>(static_cast<bf16*>(base) + at) = make_uint4(
        pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
    return;
  }
  __nv_fp8_e4m3 bytes[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) store_as(bytes + i, x[i] / scale);
  uint2 packed;
  packed.x = uint32_t(bytes[0].__x) | uint32_t(bytes[1].__x) << 8 | uint32_t(bytes[2].__x) << 16 |
             uint32_t(bytes[3].__x) << 24;
  packed.y = uint32_t(bytes[4].__x) | uint32_t(bytes[5].__x) << 8 | uint32_t(bytes[6].__x) << 16 |
             uint32_t(bytes[7].__x) << 24;
  *reinterpret_cast<uint2*>(static_cast<uint8_t*>(base) + at) = packed;
}

/// Norm and rotation of one head: lane l holds dimensions 8 l .. + 7; pair i is (i, i + 32).
__device__ __forceinline__ void norm_rotate(float (&x)[8], const float* weight, float eps,
                                            const float (&cosine)[kPairs],
                                            const float (&sine)[kPairs]) {
  const int lane = threadIdx.x % 32;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) sum = fmaf(x[i], x[i], sum);
  const float r = rsqrtf(warp_sum(sum) / float(kDim) + eps);
#pragma unroll
  for (int i = 0; i < 8; ++i) x[i] *= r * (1.0f + weight[lane * 8 + i]);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float other = __shfl_xor_sync(~0u, x[i], 4);
    if (lane < 8) {
      const int pair = lane % 4 * 8 + i;
      x[i] = x[i] * cosine[pair] + (lane < 4 ? -other : other) * sine[pair];
    }
  }
}

__device__ __forceinline__ void load_values(const float* from, float (&x)[4]) {
  *reinterpret_cast<uint4*>(x) = load_stream(from);
}
__device__ __forceinline__ void load_values(const bf16* from, float (&x)[4]) {
  const uint2 raw = load_stream8(from);
  x[0] = bf16_low(raw.x), x[1] = bf16_high(raw.x);
  x[2] = bf16_low(raw.y), x[3] = bf16_high(raw.y);
}
template <typename T>
__device__ __forceinline__ void load_values(const T* from, float (&x)[8]) {
  load_values(from, reinterpret_cast<float(&)[4]>(x[0]));
  load_values(from + 4, reinterpret_cast<float(&)[4]>(x[4]));
}

/// CTA = row; warps walk query heads, key heads, value heads. T: of queries and gates.
template <typename T>
__global__ void __launch_bounds__(kRotaryWarps * 32) rotary_kernel(PrefillRotaryArgs args) {
  __shared__ float cosine[kPairs], sine[kPairs];
  const int64_t row = blockIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (warp == 0) {
    const bool height = lane % 3 == 1 && lane < 3 * args.mrope_section[1];
    const bool width = lane % 3 == 2 && lane < 3 * args.mrope_section[2];
    const int position = args.step.positions[row * 3 + (height ? 1 : width ? 2 : 0)];
    sincosf(float(position) * args.inverse_frequencies[lane], &sine[lane], &cosine[lane]);
  }
  __syncthreads();
  const int sequence = args.step.row_sequence[row];
  const Sequence s = args.step.sequence[sequence];
  const int token = s.kv_len - s.q_len + int(row) - s.first_row;
  const int page = args.step.page_table[int64_t(sequence) * args.step.page_stride + token / kPage];
  for (int unit = warp; unit < args.num_heads + 2 * args.num_kv_heads; unit += kRotaryWarps) {
    const bool is_query = unit < args.num_heads,
               is_value = unit >= args.num_heads + args.num_kv_heads;
    const int kv = (unit - args.num_heads) % args.num_kv_heads;
    float x[8];
    if (is_query) {
      const int64_t at = (row * args.num_heads + unit) * 2 * kDim + lane * 8;
      load_values(static_cast<const T*>(args.q_gate) + at, x);
    } else {
      load_values((is_value ? args.v : args.k) + row * args.kv_stride + kv * kDim + lane * 8, x);
    }
    if (!is_value) {
      norm_rotate(x, is_query ? args.q_norm : args.k_norm, args.eps, cosine, sine);
    }
    if (is_query) {
      *reinterpret_cast<uint4*>(static_cast<bf16*>(args.q) + (row * args.num_heads + unit) * kDim +
                                lane * 8) =
          make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                     pack_bf16(x[6], x[7]));
    } else {
      const int64_t at =
          ((int64_t(page) * args.num_kv_heads + kv) * kPage + token % kPage) * kDim + lane * 8;
      store_cache(args.cache, is_value ? args.cache.v : args.cache.k,
                  is_value ? args.cache.v_scale : args.cache.k_scale, at, x);
    }
  }
}

constexpr int kHeadsPerWarp = 4;
static_assert(8 * kHeadsPerWarp == kFp8GatedHeads);

/// The CTA's row of 32 heads.
__device__ __forceinline__ void store_fp8(const PrefillGatedNormArgs& args,
                                          const uint2 (&x)[kHeadsPerWarp]) {
  float top = 0;
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; ++i) {
    top = fmaxf(top, fmaxf(largest_bf16(x[i].x), largest_bf16(x[i].y)));
  }
  const float scale = fp8_scale(block_max(top)), inverse = fp8_inverse(scale);
  const int64_t head = blockIdx.x * kFp8GatedHeads + threadIdx.x / 32 * kHeadsPerWarp;
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; ++i) {
    const int64_t at = (head + i) * 128 + threadIdx.x % 32 * 4;
    *reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(args.out) + at) =
        pack_fp8x4(bf16_low(x[i].x) * inverse, bf16_high(x[i].x) * inverse,
                   bf16_low(x[i].y) * inverse, bf16_high(x[i].y) * inverse);
  }
  if (threadIdx.x == 0) args.fp8_scales[blockIdx.x] = scale;
}

/// Warp = four heads of a row, lane = four columns of each; a row of 32 heads is a CTA's. T: of z.
template <typename T>
__global__ void __launch_bounds__(256) gated_norm_kernel(PrefillGatedNormArgs args) {
  const int64_t first = (blockIdx.x * int64_t{8} + threadIdx.x / 32) * kHeadsPerWarp;
  const int lane = threadIdx.x % 32;
  const float4 weight = reinterpret_cast<const float4*>(args.weight)[lane];
  const int64_t heads = args.rows * args.heads;
  uint2 core[kHeadsPerWarp], out[kHeadsPerWarp];
  float z[kHeadsPerWarp][4];
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; ++i) {
    const int64_t head = min(first + i, heads - 1);
    core[i] = load_stream8(static_cast<const __half*>(args.core) + head * 128 + lane * 4);
    load_values(static_cast<const T*>(args.z) + head * 128 + lane * 4, z[i]);
  }
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; ++i) {
    const float2 a = unpack_half(core[i].x), b = unpack_half(core[i].y);
    const float sum = warp_sum(a.x * a.x + a.y * a.y + b.x * b.x + b.y * b.y);
    const float r = rsqrtf(sum / 128.0f + args.eps);
    out[i] = make_uint2(
        pack_bf16(a.x * r * weight.x * silu(z[i][0]), a.y * r * weight.y * silu(z[i][1])),
        pack_bf16(b.x * r * weight.z * silu(z[i][2]), b.y * r * weight.w * silu(z[i][3])));
  }
  if (args.fp8_scales != nullptr) {
    store_fp8(args, out);
    return;
  }
#pragma unroll
  for (int i = 0; i < kHeadsPerWarp; ++i) {
    if (first + i >= heads) return;
    *reinterpret_cast<uint2*>(static_cast<bf16*>(args.out) + (first + i) * 128 + lane * 4) = out[i];
  }
}

}  // namespace

void prefill_rotary(const PrefillRotaryArgs& args, Stream stream) {
  const bool bf16_in = args.q_gate_type == Element::bf16;
  launch("prefill_rotary", bf16_in ? rotary_kernel<bf16> : rotary_kernel<float>,
         dim3(unsigned(args.step.rows)), kRotaryWarps * 32, 0, stream, false, args);
}

void prefill_gated_norm(const PrefillGatedNormArgs& args, Stream stream) {
  const bool bf16_in = args.z_type == Element::bf16;
  launch("prefill_gated_norm", bf16_in ? gated_norm_kernel<bf16> : gated_norm_kernel<float>,
         dim3(ceil_div(args.rows * args.heads, 8 * kHeadsPerWarp)), 256, 0, stream, false, args);
}

}  // namespace nibble::cuda
