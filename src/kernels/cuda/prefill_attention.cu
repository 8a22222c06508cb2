// Causal attention of prefill rows on wgmma: heads of 256, eight queries per KV head, paged BF16 or
// FP8 keys and values.
//
// CTA = (16 tokens of one sequence, KV head): 128 rows = token * 8 + head. One producer warpgroup
// brings pages of 64 keys into two-stage rings of swizzled BF16 tiles (BF16 by cp.async; FP8
// decoded from a staging buffer, exact); two consumer warpgroups of 64 rows each: S = Q K^T of a
// page is queued together with O += P V of the page before, the softmax runs beside it. q and P are
// rounded to BF16. ptxas: both waits, then fence and wgmmas in one block, or it serialises them
// (C7513).
#include "kernels/cuda/matrices.cuh"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/wgmma.cuh"

namespace nibble::cuda {
namespace {

constexpr int kDim = 256, kPage = 64, kGroup = 8, kTokens = 16, kThreads = 384, kStages = 2;
constexpr int kTileBytes = kSquareTileBytes, kSideBytes = 4 * kTileBytes;
constexpr int kQueryBytes = 2 * kSideBytes;
constexpr int kKeysAt = kQueryBytes, kValuesAt = kKeysAt + kStages * kSideBytes;
constexpr int kStagingAt = kValuesAt + kStages * kSideBytes;  // FP8: a page's keys and values
template <typename T>
constexpr int shared_bytes() {
  return kStagingAt + (sizeof(T) == 1 ? 2 * kPage * kDim : 0) + 1024;
}

struct Barriers {
  uint64_t full_k[kStages], empty_k[kStages], full_v[kStages], empty_v[kStages];
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

/// Which tokens a CTA serves.
struct Item {
  int sequence, first, count;  // first: token of the step's rows of the sequence
};

__device__ __forceinline__ Item find_item(const Step& step, int index) {
  for (int s = 0; s < step.sequences; ++s) {
    const int q_len = step.sequence[s].q_len, tiles = (q_len + kTokens - 1) / kTokens;
    if (index < tiles) return {s, index * kTokens, min(kTokens, q_len - index * kTokens)};
    index -= tiles;
  }
  return {-1, 0, 0};
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

/// One sequence's pages of one KV head, as a producer sees them.
template <typename T>
struct Pages {
  const char *k, *v;
  const int32_t* table;
  int64_t stride;  // bytes from page to page
  int keys, count;  // visible keys; pages

  __device__ __forceinline__ Pages(const PrefillAttentionArgs& args, int sequence, int kv_head,
                                   int visible)
      : k(static_cast<const char*>(args.cache.k)),
        v(static_cast<const char*>(args.cache.v)),
        table(args.step.page_table + int64_t(sequence) * args.step.page_stride),
        stride(int64_t(args.num_kv_heads) * kPage * kDim * int(sizeof(T))),
        keys(visible),
        count((visible + kPage - 1) / kPage) {
    k += int64_t(kv_head) * kPage * kDim * int(sizeof(T));
    v += int64_t(kv_head) * kPage * kDim * int(sizeof(T));
  }
};

/// BF16: copies land in place. Rows behind the last visible key become zero: they may be NaN.
__device__ __forceinline__ void produce(const Pages<bf16>& pages, uint8_t* shared,
                                        Barriers& barriers) {
  const int me = threadIdx.x;
  for (int n = 0; n < pages.count; ++n) {
    const int slot = n % kStages, parity = (n / kStages & 1) ^ 1, visible = pages.keys - n * kPage;
    const int64_t page = pages.table[n] * pages.stride;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const char* from = (side == 0 ? pages.k : pages.v) + page;
      const uint32_t to =
          shared_address(shared + (side == 0 ? kKeysAt : kValuesAt) + slot * kSideBytes);
      barrier_wait(side == 0 ? &barriers.empty_k[slot] : &barriers.empty_v[slot], parity);
#pragma unroll
      for (int i = 0; i < kSideBytes / 16 / 128; ++i) {
        const int row = i * 4 + me / 32, piece = me % 32;
        asm volatile(
            "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + swizzled(row, piece)),
            "l"(from + row * 512 + piece * 16), "r"(row < visible ? 16 : 0)
            : "memory");
      }
      asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                       shared_address(side == 0 ? &barriers.full_k[slot] : &barriers.full_v[slot]))
                   : "memory");
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

/// FP8: raw bytes by cp.async one page ahead, then decoded into place. A thread decodes the pieces
/// that it copied itself.
__device__ __forceinline__ void produce(const Pages<__nv_fp8_e4m3>& pages, uint8_t* shared,
                                        Barriers& barriers) {
  const int me = threadIdx.x, piece = me % 16, flip = piece / 4 & 1;
  uint8_t* staging = shared + kStagingAt + me * 16;
  auto copy = [&](int side, int n, int64_t page) {
    const char* from = (side == 0 ? pages.k : pages.v) + page * pages.stride + me * 16;
    const uint32_t to = shared_address(staging + side * kPage * kDim);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + i * 2048),
                   "l"(from + i * 2048), "r"(i * 8 + me / 16 < pages.keys - n * kPage ? 16 : 0)
                   : "memory");
    }
  };
  const auto commit = [] { asm volatile("cp.async.commit_group;" ::: "memory"); };
  int64_t ahead = pages.table[0];
  copy(0, 0, ahead);
  commit();
  copy(1, 0, ahead);
  commit();
  ahead = pages.count > 1 ? pages.table[1] : 0;
  for (int n = 0; n < pages.count; ++n) {
    const int slot = n % kStages, parity = (n / kStages & 1) ^ 1;
    const int64_t next = ahead;
    ahead = n + 2 < pages.count ? pages.table[n + 2] : 0;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      uint8_t* to = shared + (side == 0 ? kKeysAt : kValuesAt) + slot * kSideBytes;
      asm volatile("cp.async.wait_group 1;" ::: "memory");
      barrier_wait(side == 0 ? &barriers.empty_k[slot] : &barriers.empty_v[slot], parity);
#pragma unroll
      for (int first = 0; first < 8; first += 4) {
        uint4 bytes[4];  // all asked for before the first is decoded
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          bytes[i] =
              *reinterpret_cast<const uint4*>(staging + side * kPage * kDim + (first + i) * 2048);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint4 q = bytes[i];
          uint4 a, b;
          decode_fp8x4(q.x, a.x, a.y);
          decode_fp8x4(q.y, a.z, a.w);
          decode_fp8x4(q.z, b.x, b.y);
          decode_fp8x4(q.w, b.z, b.w);
          // Lanes of the second tile store their pieces in the other order: no bank is met twice.
          const int row = (first + i) * 8 + me / 16;
          *reinterpret_cast<uint4*>(to + swizzled(row, 2 * piece + flip)) = flip ? b : a;
          *reinterpret_cast<uint4*>(to + swizzled(row, 2 * piece + 1 - flip)) = flip ? a : b;
        }
      }
      async_fence();
      barrier_arrive(side == 0 ? &barriers.full_k[slot] : &barriers.full_v[slot]);
      if (n + 1 < pages.count) copy(side, n + 1, next);
      commit();
    }
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
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

struct Output {
  const PrefillAttentionArgs& args;
  int first_row, count, kv_head;
};

/// Rows of this lane: divided, gated and rounded, or plain f32.
__device__ __forceinline__ void store_rows(const Output& out, const Softmax& softmax,
                                           const float (&acc)[128], float v_scale) {
  const PrefillAttentionArgs& args = out.args;
  const int warp = threadIdx.x / 32 - 4, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const int head = out.kv_head * kGroup + g;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = softmax.sum[r];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const int token = warp * 2 + r;
    if (token >= out.count) continue;
    const float by = v_scale / total;
    const int64_t row = out.first_row + token, at = (row * args.num_heads + head) * kDim;
    const float* gate = args.gate + row * args.gate_stride + head * 2 * kDim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      const int d = n * 8 + 2 * t;
      const float a = acc[4 * n + 2 * r] * by, b = acc[4 * n + 2 * r + 1] * by;
      if (args.gated == nullptr) {
        *reinterpret_cast<float2*>(args.core + at + d) = make_float2(a, b);
      } else {
        const float2 x = *reinterpret_cast<const float2*>(gate + d);
        *reinterpret_cast<uint32_t*>(static_cast<bf16*>(args.gated) + at + d) =
            pack_bf16(a * sigmoid_fast(x.x), b * sigmoid_fast(x.y));
      }
    }
  }
}

/// start: KV index of the CTA's first token.
__device__ __forceinline__ void consume(const Output& out, int start, int pages, uint8_t* shared,
                                        Barriers& barriers) {
  const int group = threadIdx.x / 128 - 1, warp = threadIdx.x / 32 - 4, lane = threadIdx.x % 32;
  const PrefillAttentionArgs& args = out.args;
  const bool scaled = args.cache.type == Element::f8_e4m3;
  // Scores in units of log 2.
  const float scale =
      rsqrtf(float(kDim)) * (scaled ? args.cache.k_scale : 1.0f) * 1.4426950408889634f;
  const uint32_t q_at = shared_address(shared) + group * kSideBytes;
  const uint32_t k_at = shared_address(shared) + kKeysAt, v_at = shared_address(shared) + kValuesAt;
  float acc[128], score[32];
  uint32_t p[16];
#pragma unroll
  for (int i = 0; i < 128; ++i) acc[i] = 0.0f;
  Softmax softmax = {{-INFINITY, -INFINITY}, {0, 0}, {0, 0}};
  int last[2] = {start + warp * 2, start + warp * 2 + 1};
  barrier_wait(&barriers.full_k[0], 0);
  async_fence();
  wgmma_fence();
  queue_scores(score, q_at, k_at);
  wgmma_wait<0>();
  if (lane == 0) barrier_arrive(&barriers.empty_k[0]);
  update(softmax, score, scale, last);
  pack_weights(score, p);
#pragma unroll 1
  for (int n = 1; n < pages; ++n) {
    const int slot = n % kStages, before = (n - 1) % kStages;
    barrier_wait(&barriers.full_k[slot], n / kStages & 1);
    barrier_wait(&barriers.full_v[before], (n - 1) / kStages & 1);
    async_fence();
    wgmma_fence();
    queue_scores(score, q_at, k_at + slot * kSideBytes);
    queue_values(acc, p, v_at + before * kSideBytes);
    wgmma_wait<1>();
    if (lane == 0) barrier_arrive(&barriers.empty_k[slot]);
    last[0] -= kPage;
    last[1] -= kPage;
    update(softmax, score, scale, last);
    wgmma_wait<0>();
    if (lane == 0) barrier_arrive(&barriers.empty_v[before]);
#pragma unroll
    for (int i = 0; i < 128; ++i) acc[i] *= softmax.factor[i / 2 % 2];
    pack_weights(score, p);
  }
  barrier_wait(&barriers.full_v[(pages - 1) % kStages], (pages - 1) / kStages & 1);
  async_fence();
  wgmma_fence();
  queue_values(acc, p, v_at + (pages - 1) % kStages * kSideBytes);
  wgmma_wait<0>();
  store_rows(out, softmax, acc, scaled ? args.cache.v_scale : 1.0f);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(PrefillAttentionArgs args) {
  extern __shared__ uint8_t raw[];
  __shared__ Barriers barriers;
  uint8_t* shared = raw + ((1024 - (shared_address(raw) & 1023)) & 1023);
  const int kv_head = blockIdx.y;
  // The last tokens see the most keys: their tiles come first.
  const Item item = find_item(args.step, int(gridDim.x) - 1 - int(blockIdx.x));
  if (item.sequence < 0) return;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&barriers.full_k[i], 128);
      barrier_init(&barriers.full_v[i], 128);
      barrier_init(&barriers.empty_k[i], 8);
      barrier_init(&barriers.empty_v[i], 8);
    }
    barrier_init_fence();
  }
  const Sequence s = args.step.sequence[item.sequence];
  const int start = s.kv_len - s.q_len + item.first, keys = start + item.count;
  load_queries(args, s.first_row + item.first, item.count, kv_head, shared);
  async_fence();
  __syncthreads();
  if (threadIdx.x < 128) {
    give_registers<88>();
    produce(Pages<T>(args, item.sequence, kv_head, keys), shared, barriers);
  } else {
    take_registers<208>();
    consume({args, s.first_row + item.first, item.count, kv_head}, start,
            (keys + kPage - 1) / kPage, shared, barriers);
  }
}

}  // namespace

bool can_prefill_attention(const AttentionArgs& args) {
  return !args.exact_products && args.head_dim == kDim &&
         args.num_heads == kGroup * args.num_kv_heads && args.cache.type != Element::f32;
}

void prefill_attention(const PrefillAttentionArgs& args, Stream stream) {
  const dim3 grid(ceil_div(args.step.rows, kTokens) + unsigned(args.step.sequences),
                  unsigned(args.num_kv_heads));
  if (args.cache.type == Element::bf16) {
    launch("prefill_attention", attention_kernel<bf16>, grid, kThreads, shared_bytes<bf16>(),
           stream, false, args);
  } else {
    launch("prefill_attention", attention_kernel<__nv_fp8_e4m3>, grid, kThreads,
           shared_bytes<__nv_fp8_e4m3>(), stream, false, args);
  }
}

void prepare_prefill_attention() {
  allow_shared(attention_kernel<bf16>, shared_bytes<bf16>());
  allow_shared(attention_kernel<__nv_fp8_e4m3>, shared_bytes<__nv_fp8_e4m3>());
}

}  // namespace nibble::cuda
