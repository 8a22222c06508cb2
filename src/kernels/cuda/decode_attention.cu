// Attention of decode rows, heads of 256, eight queries per KV head: QK norm, rotary, KV store and
// split-KV attention in one kernel, then the merge of the key ranges with the output gate.
//
// CTA = (key range, KV head, row). Each warp takes 16 keys at a time: scores K q^T and values V^T
// P^T on mma.m16n8k16 with the eight heads as columns, its own online softmax, merged over the
// warps at the end. q and P are rounded to BF16; FP8 keys and values are exact in BF16. The range
// that holds the newest key stores it first. Keys and values are read past L1, because this kernel
// writes some of them.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"

namespace nibble::cuda {
namespace {

constexpr int kDim = 256, kHeads = 16, kKvHeads = 2, kGroup = 8, kPage = 64;
constexpr int kWarps = 8, kThreads = kWarps * 32, kKeysPerWarp = 16;
constexpr int kK = kHeads * 2 * kDim, kV = kK + kKvHeads * kDim;  // places in a projection row

/// What norm and rotation of a head by one warp need besides the head: nothing of it depends on
/// kernels before this one. Lane holds dimensions lane, lane + 32, ...; the pairs to rotate are
/// (lane, lane + 32).
struct Rotation {
  float sine, cosine, weight[8];

  __device__ __forceinline__ Rotation(const AttentionDecodeArgs& args, const float* norm_weight,
                                      int row) {
    const int lane = threadIdx.x % 32;
    const bool height = lane % 3 == 1 && lane < 3 * args.mrope_section[1];
    const bool width = lane % 3 == 2 && lane < 3 * args.mrope_section[2];
    const int position = args.step.positions[row * 3 + (height ? 1 : width ? 2 : 0)];
#pragma unroll
    for (int i = 0; i < 8; ++i) weight[i] = 1.0f + norm_weight[i * 32 + lane];
    sincosf(float(position) * args.inverse_frequencies[lane], &sine, &cosine);
  }
  /// rms_norm and rotation of x[256].
  __device__ __forceinline__ void apply(const float* x, float eps, float (&out)[8]) const {
    const int lane = threadIdx.x % 32;
    float square = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      out[i] = x[i * 32 + lane];
      square += out[i] * out[i];
    }
    const float r = rsqrtf(warp_sum(square) / kDim + eps);
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = out[i] * r * weight[i];
    const float a = out[0], b = out[1];
    out[0] = a * cosine - b * sine;
    out[1] = b * cosine + a * sine;
  }
};

/// 8 elements of a key or value row as BF16 pairs, in order.
template <typename T>
struct Loaded;
template <>
struct Loaded<bf16> {
  uint4 raw;
  __device__ __forceinline__ void load(const bf16* p) {
    raw = __ldcg(reinterpret_cast<const uint4*>(p));
  }
  __device__ __forceinline__ uint4 pairs() const { return raw; }
};
template <>
struct Loaded<__nv_fp8_e4m3> {
  uint2 raw;
  __device__ __forceinline__ void load(const __nv_fp8_e4m3* p) {
    raw = __ldcg(reinterpret_cast<const uint2*>(p));
  }
  __device__ __forceinline__ uint4 pairs() const {
    uint4 out;
    decode_fp8x4(raw.x, out.x, out.y);
    decode_fp8x4(raw.y, out.z, out.w);
    return out;
  }
};

/// 8x8 matrix of 16-bit elements across the warp, transposed.
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(x));
  return out;
}

struct SharedState {
  uint4 q[kGroup][kDim / 8];
  float out[kWarps / 2][64][32];  // accumulators as the lanes hold them: [register][lane]
  float maximum[kWarps][kGroup], sum[kWarps][kGroup];
};

/// Stores the newest key (warp 0, rotation: with k_norm) and value (warp 1) of a row.
template <typename T>
__device__ __forceinline__ void store_newest(const AttentionDecodeArgs& args,
                                             const Rotation& rotation, int token, int64_t page) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, kv_head = blockIdx.y;
  const int64_t to = ((page * kKvHeads + kv_head) * kPage + token % kPage) * kDim;
  const float* projection = args.projection + blockIdx.z * args.projection_stride;
  const bool is_key = warp == 0, scaled = args.cache.type == Element::f8_e4m3;
  float x[8];
  if (is_key) {
    rotation.apply(projection + kK + kv_head * kDim, args.eps, x);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = projection[kV + kv_head * kDim + i * 32 + lane];
  }
  T* out = static_cast<T*>(is_key ? args.cache.k : args.cache.v) + to;
  const float scale = is_key ? args.cache.k_scale : args.cache.v_scale;
#pragma unroll
  for (int i = 0; i < 8; ++i) store_as(out + i * 32 + lane, scaled ? x[i] / scale : x[i]);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(AttentionDecodeArgs args) {
  extern __shared__ __align__(16) uint8_t raw_shared[];
  SharedState& shared = *reinterpret_cast<SharedState*>(raw_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int split = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
  grid_release();
  // The step's own arrays were there before the first kernel of the step.
  const Sequence s = args.step.sequence[row];
  const int pages = (s.kv_len + kPage - 1) / kPage;
  const int per_split = (pages + args.num_splits - 1) / args.num_splits;
  const int first_page = split * per_split, last_page = min(pages, first_page + per_split);
  if (first_page >= last_page) {
    grid_wait();
    return;
  }
  const int32_t* page_table = args.step.page_table + int64_t(row) * args.step.page_stride;
  constexpr int kPageBytes = kPage * kDim * sizeof(T);
  for (int page = first_page + threadIdx.x; page < last_page; page += kThreads) {
    const int64_t at = (int64_t(page_table[page]) * kKvHeads + kv_head) * kPageBytes;
    prefetch_l2(static_cast<const char*>(args.cache.k) + at, kPageBytes);
    prefetch_l2(static_cast<const char*>(args.cache.v) + at, kPageBytes);
  }
  const bool stores = last_page == pages && warp < 2;
  const int64_t newest_page = page_table[pages - 1];
  const Rotation for_queries(args, args.q_norm, row), for_key(args, args.k_norm, row);
  grid_wait();
  const float* projection = args.projection + row * args.projection_stride;
  {
    float x[8];
    for_queries.apply(projection + (kv_head * kGroup + warp) * 2 * kDim, args.eps, x);
    bf16* q = reinterpret_cast<bf16*>(shared.q[warp]);
#pragma unroll
    for (int i = 0; i < 8; ++i) q[i * 32 + lane] = __float2bfloat16(x[i]);
  }
  if (stores) store_newest<T>(args, for_key, s.kv_len - 1, newest_page);
  __syncthreads();
  const bool scaled = args.cache.type == Element::f8_e4m3;
  const float score_scale = rsqrtf(float(kDim)) * (scaled ? args.cache.k_scale : 1.0f);
  // Columns of the lane: heads 2 t and 2 t + 1.
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  float acc[16][4] = {};
  const int end = min(s.kv_len, last_page * kPage);
  for (int first = first_page * kPage + warp * kKeysPerWarp; first < end;
       first += kWarps * kKeysPerWarp) {
    const int64_t page = page_table[first / kPage];
    const int64_t base = ((page * kKvHeads + kv_head) * kPage + first % kPage) * kDim;
    const T* k = static_cast<const T*>(args.cache.k) + base;
    const T* v = static_cast<const T*>(args.cache.v) + base;
    Loaded<T> keys[8][2], values[4][4];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      keys[i][0].load(k + g * kDim + i * 32 + t * 8);
      keys[i][1].load(k + (g + 8) * kDim + i * 32 + t * 8);
    }
    // The lane's value rows: keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9, dimensions 64 b + 8 g .. + 7.
#pragma unroll
    for (int b = 0; b < 4; ++b) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[b][i].load(v + (2 * t + i % 2 + i / 2 * 8) * kDim + b * 64 + g * 8);
      }
    }
    float score[4] = {};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint4 low = keys[i][0].pairs(), high = keys[i][1].pairs();
      const uint4 q = shared.q[g][i * 4 + t];
      mma_bf16(score, low.x, high.x, low.y, high.y, q.x, q.y);
      mma_bf16(score, low.z, high.z, low.w, high.w, q.z, q.w);
    }
    // score[0], [1]: key g of heads 2 t, 2 t + 1; score[2], [3]: key g + 8.
    float p[4], factor[2];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float low = first + g < end ? score[h] * score_scale : -INFINITY;
      const float high = first + g + 8 < end ? score[h + 2] * score_scale : -INFINITY;
      float top = fmaxf(low, high);
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) {
        top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
      }
      const float now = fmaxf(maximum[h], top);  // finite: key `first` is visible
      factor[h] = __expf(maximum[h] - now);
      maximum[h] = now;
      p[h] = __expf(low - now);
      p[h + 2] = __expf(high - now);
      float total = p[h] + p[h + 2];
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2) total += __shfl_xor_sync(~0u, total, offset);
      sum[h] = sum[h] * factor[h] + total;
    }
    const uint32_t b0 = transpose(pack_bf16(p[0], p[1])), b1 = transpose(pack_bf16(p[2], p[3]));
#pragma unroll
    for (int b = 0; b < 4; ++b) {
      uint4 rows[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        rows[i] = values[b][i].pairs();
        // Pages behind the last key hold anything, NaN too.
        if (first + 2 * t + i % 2 + i / 2 * 8 >= end) rows[i] = make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t* w0 = &rows[0].x;
        const uint32_t* w1 = &rows[1].x;
        const uint32_t* w2 = &rows[2].x;
        const uint32_t* w3 = &rows[3].x;
        float(&d)[4] = acc[b * 4 + j];
        d[0] *= factor[0], d[1] *= factor[1], d[2] *= factor[0], d[3] *= factor[1];
        // Tile row g is dimension 8 g + 2 j, row g + 8 is 8 g + 2 j + 1 (of block b).
        mma_bf16(d, __byte_perm(w0[j], w1[j], 0x5410), __byte_perm(w0[j], w1[j], 0x7632),
                 __byte_perm(w2[j], w3[j], 0x5410), __byte_perm(w2[j], w3[j], 0x7632), b0, b1);
      }
    }
  }
  if (g == 0) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      shared.maximum[warp][2 * t + h] = maximum[h];
      shared.sum[warp][2 * t + h] = sum[h];
    }
  }
  __syncthreads();
  // This warp's share, brought to the CTA's maximum; warps 4 .. 7 hand over to 0 .. 3, then all add
  // up.
  float rescale[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float top = -INFINITY;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared.maximum[w][2 * t + h]);
    rescale[h] = __expf(maximum[h] - top);
  }
#pragma unroll
  for (int round = 1; round >= 0; --round) {
    if (warp / (kWarps / 2) == round) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        float& to = shared.out[warp % (kWarps / 2)][i][lane];
        const float value = acc[i / 4][i % 4] * rescale[i % 2];
        to = round == 1 ? value : to + value;
      }
    }
    __syncthreads();
  }
  const float v_scale = scaled ? args.cache.v_scale : 1.0f;
  const auto partial_of = [&](int h) {
    return args.partial +
           ((int64_t(row) * kHeads + kv_head * kGroup + h) * args.num_splits + split) * (kDim + 4);
  };
#pragma unroll
  for (int i = warp; i < 64; i += kWarps) {
    const float y = (shared.out[0][i][lane] + shared.out[1][i][lane]) +
                    (shared.out[2][i][lane] + shared.out[3][i][lane]);
    partial_of(2 * t + i % 2)[i / 16 * 64 + g * 8 + i / 4 % 4 * 2 + i % 4 / 2] = y * v_scale;
  }
  if (threadIdx.x < kGroup) {
    const int h = threadIdx.x;
    float top = -INFINITY, total = 0;
    for (int w = 0; w < kWarps; ++w) top = fmaxf(top, shared.maximum[w][h]);
    for (int w = 0; w < kWarps; ++w) {
      total += shared.sum[w][h] * __expf(shared.maximum[w][h] - top);
    }
    partial_of(h)[kDim] = top;
    partial_of(h)[kDim + 1] = total;
  }
}

/// CTA = (head, row); the warps share out the key ranges, a lane holds eight dimensions.
__global__ void __launch_bounds__(kDim) merge_kernel(AttentionDecodeArgs args) {
  constexpr int kStride = kDim + 4, kMaxRanges = 64;
  __shared__ float sums[kWarps][kDim];
  const int head = blockIdx.x, row = blockIdx.y, d = threadIdx.x;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  grid_release();
  const Sequence s = args.step.sequence[row];
  const int pages = (s.kv_len + kPage - 1) / kPage;
  const int per_split = (pages + args.num_splits - 1) / args.num_splits;
  const int ranges = (pages + per_split - 1) / per_split;
  const float* part = args.partial + (int64_t(row) * kHeads + head) * args.num_splits * kStride;
  grid_wait();
  const float gate = args.projection[row * args.projection_stride + head * 2 * kDim + kDim + d];
  // Ranges lane and lane + 32: their maximum and sum of weights.
  float weight[2], total = 0;
  float2 found[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int range = i * 32 + lane;
    found[i] = range < ranges ? *reinterpret_cast<const float2*>(part + range * kStride + kDim)
                              : make_float2(-INFINITY, 0.0f);
  }
  const float top = warp_max(fmaxf(found[0].x, found[1].x));
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    weight[i] = __expf(found[i].x - top);
    total += weight[i] * found[i].y;
  }
  total = warp_sum(total);
  float4 sum[2] = {};
#pragma unroll
  for (int i = 0; i < kMaxRanges / kWarps; ++i) {
    const int range = i * kWarps + warp;
    if (range >= ranges) break;
    const float w = __shfl_sync(~0u, i < 32 / kWarps ? weight[0] : weight[1], range % 32);
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float4 v =
          *reinterpret_cast<const float4*>(part + range * kStride + j * 128 + lane * 4);
      sum[j].x += w * v.x, sum[j].y += w * v.y, sum[j].z += w * v.z, sum[j].w += w * v.w;
    }
  }
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    *reinterpret_cast<float4*>(&sums[warp][j * 128 + lane * 4]) = sum[j];
  }
  __syncthreads();
  float y = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) y += sums[w][d];
  static_cast<bf16*>(args.out)[int64_t(row) * kMixer + head * kDim + d] =
      __float2bfloat16(y / total * sigmoid(gate));
}

}  // namespace

void prepare_decode_attention() {
  allow_shared(attention_kernel<bf16>, sizeof(SharedState));
  allow_shared(attention_kernel<__nv_fp8_e4m3>, sizeof(SharedState));
  cudaFuncSetAttribute(attention_kernel<bf16>, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  cudaFuncSetAttribute(attention_kernel<__nv_fp8_e4m3>,
                       cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  cudaFuncSetAttribute(merge_kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
}

void decode_attention(const AttentionDecodeArgs& args, Stream stream) {
  const dim3 grid(unsigned(args.num_splits), kKvHeads, unsigned(args.step.rows));
  auto* kernel =
      args.cache.type == Element::bf16 ? attention_kernel<bf16> : attention_kernel<__nv_fp8_e4m3>;
  launch("decode_attention", kernel, grid, kThreads, sizeof(SharedState), stream, true, args);
  launch("decode_attention_merge", merge_kernel, dim3(kHeads, unsigned(args.step.rows)), kDim, 0,
         stream, true, args);
}

void prepare_decode_dense();
void prepare_decode_out();
void prepare_decode_rows();
void prepare_decode_delta();
void prepare_decode_experts();
void prepare_decode_experts_rows();
void prepare_decode() {
  prepare_decode_dense();
  prepare_decode_out();
  prepare_decode_rows();
  prepare_decode_delta();
  prepare_decode_experts();
  prepare_decode_experts_rows();
  prepare_decode_attention();
}

}  // namespace nibble::cuda
