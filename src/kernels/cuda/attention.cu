// Paged attention, plain form: any head size up to 256 and group up to 16, f32 products. Also the
// store of keys and values and the merge of key ranges.
//
// CTA = (row, KV head, key range): scores of 64 keys at a time, online softmax, values. Rows of one
// decode step are cut into key ranges so that the card is full; merge_kernel joins them in order.
#include "kernels/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256, kPage = 64, kMaxGroup = 16, kMaxHeadDim = 256;
constexpr int kTargetBlocks = 264;

template <typename T>
__global__ void kv_store_kernel(KvStoreArgs args) {
  const int row = blockIdx.x, head = blockIdx.y, d = args.head_dim;
  const int sequence = args.step.row_sequence[row];
  const Sequence s = args.step.sequence[sequence];
  const int token = s.kv_len - s.q_len + row - s.first_row;
  const int page = args.step.page_table[int64_t(sequence) * args.step.page_stride + token / kPage];
  const int64_t to = ((int64_t(page) * args.num_kv_heads + head) * kPage + token % kPage) * d;
  const int64_t from = (int64_t(row) * args.num_kv_heads + head) * d;
  const bool scaled = args.cache.type == Element::f8_e4m3;
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    const float k = args.k[from + i], v = args.v[from + i];
    store_as(static_cast<T*>(args.cache.k) + to + i, scaled ? k / args.cache.k_scale : k);
    store_as(static_cast<T*>(args.cache.v) + to + i, scaled ? v / args.cache.v_scale : v);
  }
}

/// Where the (head, range) result of a row goes: [row][head][range][head_dim + 2].
__device__ __forceinline__ float* partial_of(const AttentionArgs& args, int64_t row, int head,
                                             int split) {
  return args.partial +
         ((row * args.num_heads + head) * args.num_splits + split) * (args.head_dim + 2);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) attention_kernel(AttentionArgs args) {
  __shared__ float q[kMaxGroup][kMaxHeadDim];
  __shared__ float scores[kMaxGroup][kPage];
  __shared__ float maximum[kMaxGroup], sum[kMaxGroup], factor[kMaxGroup];
  const int row = blockIdx.x, kv_head = blockIdx.y, split = blockIdx.z, d = args.head_dim;
  const int group = args.num_heads / args.num_kv_heads;
  const int sequence = args.step.row_sequence[row];
  const Sequence s = args.step.sequence[sequence];
  const int keys = s.kv_len - s.q_len + (row - s.first_row) + 1;
  const int pages = (keys + kPage - 1) / kPage;
  const int per_split = (pages + args.num_splits - 1) / args.num_splits;
  const int first_page = split * per_split, last_page = min(pages, first_page + per_split);
  const float k_scale = args.cache.type == Element::f8_e4m3 ? args.cache.k_scale : 1.0f;
  const float v_scale = args.cache.type == Element::f8_e4m3 ? args.cache.v_scale : 1.0f;
  const float scale = rsqrtf(float(d)) * k_scale;
  for (int i = threadIdx.x; i < group * d; i += kThreads) {
    q[i / d][i % d] = args.q[(int64_t(row) * args.num_heads + kv_head * group) * d + i] * scale;
  }
  if (threadIdx.x < kMaxGroup) {
    maximum[threadIdx.x] = -INFINITY;
    sum[threadIdx.x] = 0;
  }
  float acc[kMaxGroup] = {};
  __syncthreads();
  for (int page = first_page; page < last_page; ++page) {
    const int64_t number = args.step.page_table[int64_t(sequence) * args.step.page_stride + page];
    const int64_t base = (number * args.num_kv_heads + kv_head) * kPage * d;
    const int visible = min(kPage, keys - page * kPage);
    const T* k_page = static_cast<const T*>(args.cache.k) + base;
    const T* v_page = static_cast<const T*>(args.cache.v) + base;
    const int key = threadIdx.x % kPage;
    for (int h = threadIdx.x / kPage; h < group; h += kThreads / kPage) {
      float score = -INFINITY;
      if (key < visible) {
        score = 0;
        for (int i = 0; i < d; ++i) score = fmaf(q[h][i], to_float(k_page[key * d + i]), score);
      }
      scores[h][key] = score;
    }
    __syncthreads();
    for (int h = threadIdx.x / 32; h < group; h += kThreads / 32) {
      const int lane = threadIdx.x % 32;
      const float a = scores[h][lane], b = scores[h][lane + 32];
      const float old = maximum[h], now = fmaxf(old, warp_max(fmaxf(a, b)));
      const float pa = expf(a - now), pb = expf(b - now), total = warp_sum(pa + pb);
      scores[h][lane] = pa;
      scores[h][lane + 32] = pb;
      __syncwarp();
      if (lane == 0) {
        factor[h] = expf(old - now);
        sum[h] = sum[h] * factor[h] + total;
        maximum[h] = now;
      }
    }
    __syncthreads();
    if (int(threadIdx.x) < d) {
#pragma unroll
      for (int h = 0; h < kMaxGroup; ++h) acc[h] *= h < group ? factor[h] : 1.0f;
      for (int n = 0; n < visible; ++n) {
        const float v = to_float(v_page[n * d + threadIdx.x]);
#pragma unroll
        for (int h = 0; h < kMaxGroup; ++h) {
          if (h < group) acc[h] = fmaf(scores[h][n], v, acc[h]);
        }
      }
    }
    __syncthreads();
  }
  if (int(threadIdx.x) >= d) return;
#pragma unroll
  for (int h = 0; h < kMaxGroup; ++h) {
    if (h >= group) break;
    const int head = kv_head * group + h;
    if (args.num_splits == 1) {
      args.core[(int64_t(row) * args.num_heads + head) * d + threadIdx.x] =
          acc[h] * v_scale / sum[h];
      continue;
    }
    float* out = partial_of(args, row, head, split);
    out[threadIdx.x] = acc[h] * v_scale;
    if (threadIdx.x == 0) {
      out[d] = maximum[h];
      out[d + 1] = sum[h];
    }
  }
}

/// CTA = (row, head): joins the key ranges in order.
__global__ void __launch_bounds__(kThreads) merge_kernel(AttentionArgs args) {
  const int64_t row = blockIdx.x;
  const int head = blockIdx.y, d = args.head_dim;
  float top = -INFINITY;
  for (int split = 0; split < args.num_splits; ++split) {
    top = fmaxf(top, partial_of(args, row, head, split)[d]);
  }
  float total = 0;
  for (int split = 0; split < args.num_splits; ++split) {
    const float* part = partial_of(args, row, head, split);
    total += part[d + 1] * expf(part[d] - top);
  }
  for (int i = threadIdx.x; i < d; i += kThreads) {
    float sum = 0;
    for (int split = 0; split < args.num_splits; ++split) {
      const float* part = partial_of(args, row, head, split);
      if (part[d + 1] > 0) sum += part[i] * expf(part[d] - top);
    }
    args.core[(row * args.num_heads + head) * d + i] = sum / total;
  }
}

}  // namespace

int32_t attention_splits(int64_t rows, int64_t sequences, int32_t num_kv_heads) {
  if (rows != sequences) return 1;
  const int64_t splits = kTargetBlocks / (rows * num_kv_heads);
  return static_cast<int32_t>(splits < 1 ? 1 : splits > 64 ? 64 : splits);
}

size_t attention_scratch_floats(int64_t max_rows, int32_t num_heads, int32_t head_dim) {
  const int64_t rows = max_rows < kTargetBlocks ? max_rows : kTargetBlocks;
  const int64_t ranges = rows * 64 < kTargetBlocks ? rows * 64 : kTargetBlocks;
  return static_cast<size_t>(ranges) * static_cast<size_t>(num_heads) *
         static_cast<size_t>(head_dim + 4);  // decode_attention.cu pads to 16 bytes
}

void kv_store(const KvStoreArgs& args, Stream stream) {
  const dim3 grid(unsigned(args.step.rows), unsigned(args.num_kv_heads));
  auto* kernel = args.cache.type == Element::f32    ? kv_store_kernel<float>
                 : args.cache.type == Element::bf16 ? kv_store_kernel<bf16>
                                                    : kv_store_kernel<__nv_fp8_e4m3>;
  launch("kv_store", kernel, grid, 128, 0, stream, false, args);
}

void attention(const AttentionArgs& args, Stream stream) {
  const dim3 grid(unsigned(args.step.rows), unsigned(args.num_kv_heads), unsigned(args.num_splits));
  auto* kernel = args.cache.type == Element::f32    ? attention_kernel<float>
                 : args.cache.type == Element::bf16 ? attention_kernel<bf16>
                                                    : attention_kernel<__nv_fp8_e4m3>;
  launch("attention", kernel, grid, kThreads, 0, stream, false, args);
  if (args.num_splits == 1) return;
  const dim3 merged(unsigned(args.step.rows), unsigned(args.num_heads));
  launch("attention_merge", merge_kernel, merged, kThreads, 0, stream, false, args);
}

}  // namespace nibble::cuda
