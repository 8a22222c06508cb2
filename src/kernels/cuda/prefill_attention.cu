// Causal attention of prefill rows on wgmma: heads of 256, eight queries per KV head, paged BF16 or
// FP8 keys and values.
//
// A window of pages is first expanded to BF16 tiles in wgmma's swizzle (FP8 codes are exact in
// BF16), so that every CTA only copies. CTA = (16 tokens of one sequence, KV head): 128 rows =
// token * 8 + head. One thread fills rings of keys and values; two consumer warpgroups of 64 rows
// each: S = Q K^T of a page is queued together with O += P V of the page before, the softmax runs
// beside it. q and P are rounded to BF16. Pages behind the window: the next pass goes on from the
// sums of this one. ptxas: both waits, then fence and wgmmas in one block, or it serialises them
// (C7513).
#include "kernels/cuda/matrices.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/wgmma.cuh"

namespace nibble::cuda {
namespace {

constexpr int kDim = kPrefillHeadDim, kPage = 64, kGroup = 8, kTokens = 16, kThreads = 384;
// Values are needed a page later than their keys and are free a page later.
constexpr int kKeyStages = 2, kValueStages = 3;
constexpr int kTileBytes = kSquareTileBytes, kSideBytes = 4 * kTileBytes;
constexpr int kPieces = 8, kPieceBytes = kSideBytes / kPieces;
constexpr int kQueryBytes = 2 * kSideBytes;
constexpr int kKeysAt = kQueryBytes, kValuesAt = kKeysAt + kKeyStages * kSideBytes;
constexpr int kSharedBytes = kValuesAt + kValueStages * kSideBytes + 1024;

struct Barriers {
  uint64_t full_k[kKeyStages], empty_k[kKeyStages], full_v[kValueStages], empty_v[kValueStages];
  uint64_t order;  // nobody waits for it
};

/// Byte offset of 16-byte piece `piece` of row `row` in four tiles side by side.
__device__ __forceinline__ int swizzled(int row, int piece) {
  return piece / 8 * kTileBytes + row * 128 + (((piece ^ row) & 7) << 4);
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Without an IEEE division.
__device__ __forceinline__ float sigmoid_fast(float x) {
  return __fdividef(1.0f, 1.0f + __expf(-x));
}

/// Pages of the step's sequences are numbered one sequence behind the other; a pass sees a window
/// of them, which lies expanded in `tiles`: [page][KV head][keys, values] of kSideBytes.
struct Window {
  int first, count;
  uint8_t* tiles;

  __device__ __forceinline__ uint8_t* keys(int page, int kv_head, int kv_heads) const {
    return tiles + (int64_t(page - first) * kv_heads + kv_head) * 2 * kSideBytes;
  }
};

__device__ __forceinline__ int pages_of(int keys) {
  return (keys + kPage - 1) / kPage;
}

/// Which tokens a CTA serves.
struct Item {
  int sequence, first, count;  // first: token of the step's rows of the sequence
  int first_page;  // number of the sequence's first page
};

__device__ __forceinline__ Item find_item(const Step& step, int index) {
  int page = 0;
  for (int s = 0; s < step.sequences; ++s) {
    const int q_len = step.sequence[s].q_len, items = (q_len + kTokens - 1) / kTokens;
    if (index < items) {
      const int first = index * kTokens;
      return {s, first, min(kTokens, q_len - first), page};
    }
    index -= items;
    page += pages_of(step.sequence[s].kv_len);
  }
  return {-1, 0, 0, 0};
}

/// CTA = (page of the window, KV head, keys or values). Rows behind the sequence's last key become
/// zero: they may be NaN.
template <typename T>
__global__ void __launch_bounds__(256) expand_kernel(PrefillAttentionArgs args, Window window) {
  int page = window.first + int(blockIdx.x), sequence = 0;
  for (; sequence < args.step.sequences; ++sequence) {
    const int count = pages_of(args.step.sequence[sequence].kv_len);
    if (page < count) break;
    page -= count;
  }
  if (sequence == args.step.sequences) return;
  const int kv_head = blockIdx.y, side = blockIdx.z;
  const int visible = args.step.sequence[sequence].kv_len - page * kPage;
  const int64_t at =
      (int64_t(args.step.page_table[int64_t(sequence) * args.step.page_stride + page]) *
           args.num_kv_heads +
       kv_head) *
      kPage * kDim;
  const T* from = static_cast<const T*>(side == 0 ? args.cache.k : args.cache.v) + at;
  uint8_t* to =
      window.keys(window.first + int(blockIdx.x), kv_head, args.num_kv_heads) + side * kSideBytes;
  constexpr int kValues = 16 / int(sizeof(T));  // of a vector
  constexpr int kVectors = kPage * kDim / kValues / 256;
  uint4 raw[kVectors];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int index = i * 256 + int(threadIdx.x);
    raw[i] = make_uint4(0, 0, 0, 0);
    if (index / (kDim / kValues) < visible) raw[i] = load_stream(from + index * kValues);
  }
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int index = i * 256 + int(threadIdx.x), row = index / (kDim / kValues);
    const uint4 q = raw[i];
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<uint4*>(to + swizzled(row, index % (kDim / kValues))) = q;
    } else {
      const int piece = 2 * (index % (kDim / kValues));
      uint4 a, b;
      decode_fp8x4(q.x, a.x, a.y);
      decode_fp8x4(q.y, a.z, a.w);
      decode_fp8x4(q.z, b.x, b.y);
      decode_fp8x4(q.w, b.z, b.w);
      *reinterpret_cast<uint4*>(to + swizzled(row, piece)) = a;
      *reinterpret_cast<uint4*>(to + swizzled(row, piece + 1)) = b;
    }
  }
}

/// Queries -> swizzled tiles, one set of four per consumer warpgroup; rows behind the last token
/// are zero.
__device__ __forceinline__ void load_queries(const PrefillAttentionArgs& args, int first_row,
                                             int count, int kv_head, uint8_t* queries) {
  for (int i = threadIdx.x; i < 2 * 64 * kDim / 8; i += kThreads) {
    const int row = i / (kDim / 8), piece = i % (kDim / 8), token = row / kGroup;
    const int64_t from =
        (int64_t(first_row + token) * args.num_heads + kv_head * kGroup + row % kGroup) * kDim +
        piece * 8;
    uint4 out = make_uint4(0, 0, 0, 0);
    if (token < count && args.q_bf16 != nullptr) {
      out = *reinterpret_cast<const uint4*>(static_cast<const bf16*>(args.q_bf16) + from);
    } else if (token < count) {
      const float4* q = reinterpret_cast<const float4*>(args.q + from);
      out = make_uint4(pack_bf16(q[0].x, q[0].y), pack_bf16(q[0].z, q[0].w),
                       pack_bf16(q[1].x, q[1].y), pack_bf16(q[1].z, q[1].w));
    }
    *reinterpret_cast<uint4*>(queries + row / 64 * kSideBytes + swizzled(row % 64, piece)) = out;
  }
}

/// Keys or values of a page, in pieces that begin at another one in neighbouring CTAs: they all
/// read the same pages at about the same time.
__device__ __forceinline__ void copy_side(uint8_t* to, const uint8_t* from, uint64_t* full) {
  barrier_expect(full, kSideBytes);
#pragma unroll 1
  for (int i = 0; i < kPieces; ++i) {
    const int at = (i + int(blockIdx.x)) % kPieces * kPieceBytes;
    bulk_load(to + at, from + at, kPieceBytes, full);
  }
}

/// One thread: keys of page n + 1 go out before the values of page n, as the consumers need them.
__device__ __forceinline__ void produce(const uint8_t* keys, int64_t stride, int pages,
                                        uint8_t* shared, Barriers& barriers) {
  for (int n = 0; n <= pages; ++n) {
    const int slot = n % kKeyStages, before = (n + kValueStages - 1) % kValueStages;
    if (n < pages) {
      barrier_wait(&barriers.empty_k[slot], (n / kKeyStages & 1) ^ 1);
      copy_side(shared + kKeysAt + slot * kSideBytes, keys + n * stride, &barriers.full_k[slot]);
    }
    if (n > 0) {
      barrier_wait(&barriers.empty_v[before], ((n - 1) / kValueStages & 1) ^ 1);
      copy_side(shared + kValuesAt + before * kSideBytes, keys + (n - 1) * stride + kSideBytes,
                &barriers.full_v[before]);
    }
  }
}

/// Online softmax of a warp's 16 rows: rows g (token 0) and g + 8 (token 1).
struct Softmax {
  float maximum[2], sum[2], factor[2];
};

/// Scores -> weights in place. last[r]: the last key of the page that row r sees.
__device__ __forceinline__ void update(Softmax& softmax, float (&score)[32], float scale,
                                       const int (&last)[2]) {
  const int t = threadIdx.x % 4;
  if (last[0] < kPage - 1 || last[1] < kPage - 1) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i / 4 * 8 + 2 * t + i % 2 > last[i / 2 % 2]) score[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < 8; ++n)
      top = fmaxf(top, fmaxf(score[4 * n + 2 * r], score[4 * n + 2 * r + 1]));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
    top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
    // A row always sees key 0, so its maximum is finite from the first page on.
    const float now = fmaxf(softmax.maximum[r], top);
    softmax.factor[r] = exp2_fast((softmax.maximum[r] - now) * scale);
    softmax.maximum[r] = now;
    const float shift = now * scale;
    float total = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float& x = score[4 * n + 2 * r + i];
        x = exp2_fast(fmaf(x, scale, -shift));
        total += x;
      }
    }
    softmax.sum[r] = softmax.sum[r] * softmax.factor[r] + total;
  }
}

__device__ __forceinline__ void pack_weights(const float (&score)[32], uint32_t (&p)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) p[i] = pack_bf16(score[2 * i], score[2 * i + 1]);
}

__device__ __forceinline__ void queue_scores(float (&score)[32], uint32_t queries, uint32_t keys) {
  const uint64_t a = tile_descriptor(queries), b = tile_descriptor(keys);
  wgmma_scores<false>(score, a, b);
#pragma unroll
  for (int i = 1; i < kDim / 16; ++i) {  // four steps of 16 dimensions a tile
    const int at = i / 4 * (kTileBytes >> 4) + i % 4 * 2;
    wgmma_scores<true>(score, a + at, b + at);
  }
  wgmma_commit();
}
__device__ __forceinline__ void queue_values(float (&acc)[128], const uint32_t (&p)[16],
                                             uint32_t values) {
  const uint64_t b = transposed_descriptor(values);
#pragma unroll
  for (int j = 0; j < 4; ++j) wgmma_values(acc, &p[4 * j], b + 128 * j);
  wgmma_commit();
}

/// A CTA's rows.
struct Rows {
  const PrefillAttentionArgs& args;
  int first_row, count, kv_head;
  int start;  // KV index of the first token
};

/// Calls f(token's row, head, r) for the lane's two rows, if they exist.
template <typename F>
__device__ __forceinline__ void for_rows(const Rows& rows, F f) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int token = (threadIdx.x / 32 - 4) * 2 + r;
    if (token >= rows.count) continue;
    f(int64_t(rows.first_row + token), rows.kv_head * kGroup + int(threadIdx.x % 32 / 4), r);
  }
}

__device__ __forceinline__ float2 load_pair(const void* p, Element type, int64_t at) {
  if (type == Element::f32) {
    return *reinterpret_cast<const float2*>(static_cast<const float*>(p) + at);
  }
  const uint32_t x = *reinterpret_cast<const uint32_t*>(static_cast<const bf16*>(p) + at);
  return make_float2(bf16_low(x), bf16_high(x));
}

/// Rows of this lane: divided, gated and rounded, or plain f32.
__device__ __forceinline__ void store_rows(const Rows& rows, Softmax& softmax,
                                           const float (&acc)[128], float v_scale) {
  const PrefillAttentionArgs& args = rows.args;
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    softmax.sum[r] += __shfl_xor_sync(~0u, softmax.sum[r], 1);
    softmax.sum[r] += __shfl_xor_sync(~0u, softmax.sum[r], 2);
  }
  for_rows(rows, [&](int64_t row, int head, int r) {
    const float by = v_scale / softmax.sum[r];
    const int64_t at = (row * args.num_heads + head) * kDim;
    const int64_t gate = row * args.gate_stride + head * 2 * kDim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const int d = n * 8 + 2 * t;
      const float a = acc[4 * n + 2 * r] * by, b = acc[4 * n + 2 * r + 1] * by;
      if (args.gated == nullptr) {
        *reinterpret_cast<float2*>(args.core + at + d) = make_float2(a, b);
      } else {
        const float2 x = load_pair(args.gate, args.gate_type, gate + d);
        *reinterpret_cast<uint32_t*>(static_cast<bf16*>(args.gated) + at + d) =
            pack_bf16(a * sigmoid_fast(x.x), b * sigmoid_fast(x.y));
      }
    }
  });
}

/// What the next pass goes on from: sums of weighted values, maximum, the lane's sum of weights.
__device__ __forceinline__ void save_sums(const Rows& rows, const Softmax& softmax,
                                          const float (&acc)[128]) {
  const PrefillAttentionArgs& args = rows.args;
  const int t = threadIdx.x % 4;
  for_rows(rows, [&](int64_t row, int head, int r) {
    const int64_t index = row * args.num_heads + head;
    float* to = args.core + index * kDim + 2 * t;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(to + n * 8) =
          make_float2(acc[4 * n + 2 * r], acc[4 * n + 2 * r + 1]);
    }
    *reinterpret_cast<float2*>(args.softmax + (index * 4 + t) * 2) =
        make_float2(softmax.maximum[r], softmax.sum[r]);
  });
}
__device__ __forceinline__ void restore_sums(const Rows& rows, Softmax& softmax,
                                             float (&acc)[128]) {
  const PrefillAttentionArgs& args = rows.args;
  const int t = threadIdx.x % 4;
  for_rows(rows, [&](int64_t row, int head, int r) {
    const int64_t index = row * args.num_heads + head;
    const float* from = args.core + index * kDim + 2 * t;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const float2 x = *reinterpret_cast<const float2*>(from + n * 8);
      acc[4 * n + 2 * r] = x.x, acc[4 * n + 2 * r + 1] = x.y;
    }
    const float2 x = *reinterpret_cast<const float2*>(args.softmax + (index * 4 + t) * 2);
    softmax.maximum[r] = x.x, softmax.sum[r] = x.y;
  });
}

/// Multiplies what was summed before by the rows' factors; most pages leave the maxima alone.
__device__ __forceinline__ void rescale(const Softmax& softmax, float (&acc)[128]) {
  if (!__any_sync(~0u, softmax.factor[0] != 1.0f || softmax.factor[1] != 1.0f)) return;
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i] *= softmax.factor[i / 2 % 2];
}

/// Pages first .. end of the sequence; is_last: the sequence's rows are complete behind them.
__device__ __forceinline__ void consume(const Rows& rows, int first, int end, bool is_last,
                                        uint8_t* shared, Barriers& barriers) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
  const PrefillAttentionArgs& args = rows.args;
  const bool scaled = args.cache.type == Element::f8_e4m3;
  // Scores in units of log 2.
  const float scale =
      rsqrtf(float(kDim)) * (scaled ? args.cache.k_scale : 1.0f) * 1.4426950408889634f;
  const uint32_t q_at = shared_address(shared) + group * kSideBytes;
  const uint32_t k_at = shared_address(shared) + kKeysAt, v_at = shared_address(shared) + kValuesAt;
  const int pages = end - first;
  float acc[128], score[32];
  uint32_t p[16];
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i] = 0.0f;
  Softmax softmax = {{-INFINITY, -INFINITY}, {0, 0}, {0, 0}};
  if (first > 0) restore_sums(rows, softmax, acc);
  int last[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) last[r] = rows.start + warp * 2 + r - first * kPage;
  barrier_wait(&barriers.full_k[0], 0);
  wgmma_fence();
  queue_scores(score, q_at, k_at);
  wgmma_wait<0>();
  if (lane == 0) barrier_arrive(&barriers.empty_k[0]);
  update(softmax, score, scale, last);
  rescale(softmax, acc);
  pack_weights(score, p);
#pragma unroll 1
  for (int n = 1; n < pages; ++n) {
    const int slot = n % kKeyStages, before = (n - 1) % kValueStages;
    barrier_wait(&barriers.full_k[slot], n / kKeyStages & 1);
    barrier_wait(&barriers.full_v[before], (n - 1) / kValueStages & 1);
    wgmma_fence();
    queue_scores(score, q_at, k_at + slot * kSideBytes);
    queue_values(acc, p, v_at + before * kSideBytes);
    wgmma_wait<1>();
    if (lane == 0) barrier_arrive(&barriers.empty_k[slot]);
    last[0] -= kPage;
    last[1] -= kPage;
    update(softmax, score, scale, last);
    // ptxas moves a wait for wgmma up over arithmetic, which then would not run beside the
    // products, but not over this, which hangs on the sums (never negative).
    if (lane == 0 && !(softmax.sum[0] + softmax.sum[1] < 0.0f)) barrier_arrive(&barriers.order);
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(&barriers.empty_v[before]);
    rescale(softmax, acc);
    pack_weights(score, p);
  }
  barrier_wait(&barriers.full_v[(pages - 1) % kValueStages], (pages - 1) / kValueStages & 1);
  wgmma_fence();
  queue_values(acc, p, v_at + (pages - 1) % kValueStages * kSideBytes);
  wgmma_wait<0>();
  if (is_last) {
    store_rows(rows, softmax, acc, scaled ? args.cache.v_scale : 1.0f);
  } else {
    save_sums(rows, softmax, acc);
  }
}

/// grid = (tiles of tokens, KV heads).
__global__ void __launch_bounds__(kThreads, 1)
    attention_kernel(PrefillAttentionArgs args, Window window) {
  extern __shared__ uint8_t raw[];
  __shared__ Barriers barriers;
  uint8_t* shared = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  const int kv_head = blockIdx.y;
  // The last tokens see the most keys: their tiles come first.
  const Item item = find_item(args.step, int(gridDim.x - 1 - blockIdx.x));
  if (item.sequence < 0) return;
  const Sequence s = args.step.sequence[item.sequence];
  const int start = s.kv_len - s.q_len + item.first, all = pages_of(start + item.count);
  const int first = max(window.first - item.first_page, 0);
  const int end = min(window.first + window.count - item.first_page, all);
  if (first >= end) return;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kKeyStages; ++i) {
      barrier_init(&barriers.full_k[i], 1);
      barrier_init(&barriers.empty_k[i], 8);
    }
    barrier_init(&barriers.order, 8);
    for (int i = 0; i < kValueStages; ++i) {
      barrier_init(&barriers.full_v[i], 1);
      barrier_init(&barriers.empty_v[i], 8);
    }
    barrier_init_fence();
  }
  const Rows rows{args, s.first_row + item.first, item.count, kv_head, start};
  load_queries(args, rows.first_row, rows.count, kv_head, shared);
  async_fence();
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<24>();
    if (threadIdx.x == 0) {
      produce(window.keys(item.first_page + first, kv_head, args.num_kv_heads),
              int64_t(args.num_kv_heads) * 2 * kSideBytes, end - first, shared, barriers);
    }
  } else {
    take_registers<240>();
    consume(rows, first, end, end == all, shared, barriers);
  }
}

}  // namespace

bool can_prefill_attention(const AttentionArgs& args) {
  return !args.exact_products && args.head_dim == kDim &&
         args.num_heads == kGroup * args.num_kv_heads && args.cache.type != Element::f32;
}

size_t prefill_attention_page_bytes(int64_t num_kv_heads) {
  return static_cast<size_t>(num_kv_heads) * 2 * kSideBytes;
}

void prefill_attention(const PrefillAttentionArgs& args, Stream stream) {
  const auto kv_heads = unsigned(args.num_kv_heads);
  const dim3 grid(ceil_div(args.step.rows, kTokens) + unsigned(args.step.sequences), kv_heads);
  Window window{0, 0, static_cast<uint8_t*>(args.tiles)};
  for (; window.first < args.num_pages; window.first += window.count) {
    window.count = args.num_pages - window.first;
    if (window.count > args.page_capacity) window.count = args.page_capacity;
    const dim3 pages(unsigned(window.count), kv_heads, 2);
    if (args.cache.type == Element::bf16) {
      launch("expand_pages", expand_kernel<bf16>, pages, 256, 0, stream, false, args, window);
    } else {
      launch("expand_pages", expand_kernel<__nv_fp8_e4m3>, pages, 256, 0, stream, false, args,
             window);
    }
    launch("prefill_attention", attention_kernel, grid, kThreads, kSharedBytes, stream, false, args,
           window);
  }
}

void prepare_prefill_attention() {
  allow_shared(attention_kernel, kSharedBytes);
}

}  // namespace nibble::cuda
