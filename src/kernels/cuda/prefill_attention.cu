// Causal attention of prefill rows on tensor cores: heads of 256, eight queries per KV head, paged
// BF16 or FP8 keys and values.
//
// CTA = (16 tokens of one sequence, KV head); warp = one of the eight heads that share the keys. A
// page of 64 keys at a time: raw bytes by cp.async one page ahead, then BF16 tiles in shared memory
// (FP8 is exact there), S = Q K^T, online softmax, O += P V on mma.m16n8k16. q and P are rounded to
// BF16. Tiles are rows of 512 bytes whose 16-byte pieces are exchanged by the low bits of the row
// (swizzle), so that ldmatrix meets no bank twice.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/prefill.h"

namespace nibble::cuda {
namespace {

constexpr int kDim = 256, kPage = 64, kGroup = 8, kTokens = 16, kThreads = 256;
constexpr int kRowBytes = 2 * kDim, kTileBytes = kPage * kRowBytes;
constexpr int kQueryBytes = kGroup * kTokens * kRowBytes;

/// Byte offset of 16-byte piece `piece` of row `row` in a swizzled tile.
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row * kRowBytes + ((piece ^ (row & 7)) << 4);
}

__device__ __forceinline__ void load_matrices(uint32_t address, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t address, uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}
__device__ __forceinline__ void copy_async(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
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

/// Raw bytes of one page (keys, then values) on their way to shared memory.
template <typename T>
__device__ __forceinline__ void load_page(const AttentionArgs& args, int64_t page, int kv_head,
                                          uint32_t staging) {
  constexpr int kSide = kPage * kDim * int(sizeof(T));
  const int64_t offset = (page * args.num_kv_heads + kv_head) * kSide;
  const char* k = static_cast<const char*>(args.cache.k) + offset;
  const char* v = static_cast<const char*>(args.cache.v) + offset;
#pragma unroll
  for (int i = threadIdx.x * 16; i < kSide; i += kThreads * 16) {
    copy_async(staging + i, k + i);
    copy_async(staging + kSide + i, v + i);
  }
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Staging -> swizzled BF16 tiles. Values behind the last visible key become zero: they may be NaN.
template <typename T>
__device__ __forceinline__ void unpack_page(const uint8_t* staging, uint8_t* tiles, int visible) {
  constexpr int kSide = kPage * kDim * int(sizeof(T));
#pragma unroll
  for (int side = 0; side < 2; ++side) {
#pragma unroll
    for (int i = threadIdx.x; i < kPage * kDim / 8; i += kThreads) {
      const int row = i / (kDim / 8), piece = i % (kDim / 8);
      uint4 out;
      if constexpr (sizeof(T) == 2) {
        out = *reinterpret_cast<const uint4*>(staging + side * kSide + i * 16);
      } else {
        const uint2 raw = *reinterpret_cast<const uint2*>(staging + side * kSide + i * 8);
        decode_fp8x4(raw.x, out.x, out.y);
        decode_fp8x4(raw.y, out.z, out.w);
      }
      if (row >= visible) out = make_uint4(0, 0, 0, 0);
      *reinterpret_cast<uint4*>(tiles + side * kTileBytes + swizzled(row, piece)) = out;
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, 1) attention_kernel(AttentionArgs args) {
  extern __shared__ __align__(128) uint8_t shared[];
  uint8_t* queries = shared;
  uint8_t* tiles = shared + kQueryBytes;
  uint8_t* staging = tiles + 2 * kTileBytes;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int kv_head = blockIdx.y;
  // The last tokens see the most keys: their tiles come first.
  const Item item = find_item(args.step, int(gridDim.x) - 1 - int(blockIdx.x));
  if (item.sequence < 0) return;
  const Sequence s = args.step.sequence[item.sequence];
  const int start = s.kv_len - s.q_len + item.first;  // KV index of the first token
  const int keys = start + item.count, pages = (keys + kPage - 1) / kPage;
  const int32_t* page_table = args.step.page_table + int64_t(item.sequence) * args.step.page_stride;
  load_page<T>(args, page_table[0], kv_head, shared_address(staging));

  // Queries: warp = head; rows behind the last token are zero.
  const int head = kv_head * kGroup + warp;
  for (int i = lane; i < kTokens * kDim / 8; i += 32) {
    const int row = i / (kDim / 8), piece = i % (kDim / 8);
    uint4 out = make_uint4(0, 0, 0, 0);
    if (row < item.count) {
      const float4* q = reinterpret_cast<const float4*>(
          args.q + (int64_t(s.first_row + item.first + row) * args.num_heads + head) * kDim +
          piece * 8);
      out = make_uint4(pack_bf16(q[0].x, q[0].y), pack_bf16(q[0].z, q[0].w),
                       pack_bf16(q[1].x, q[1].y), pack_bf16(q[1].z, q[1].w));
    }
    *reinterpret_cast<uint4*>(queries + warp * kTokens * kRowBytes + swizzled(row, piece)) = out;
  }
  const bool scaled = args.cache.type == Element::f8_e4m3;
  // Scores in units of log 2.
  const float scale =
      rsqrtf(float(kDim)) * (scaled ? args.cache.k_scale : 1.0f) * 1.4426950408889634f;
  const uint32_t q_at = shared_address(queries) + warp * kTokens * kRowBytes;
  const uint32_t k_at = shared_address(tiles), v_at = k_at + kTileBytes;
  float acc[kDim / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // rows g and g + 8
#pragma unroll 1
  for (int page = 0; page < pages; ++page) {
    asm volatile("cp.async.wait_all;" ::: "memory");
    __syncthreads();  // staging is there, and the tiles of the page before are no longer read
    unpack_page<T>(staging, tiles, keys - page * kPage);
    __syncthreads();
    if (page + 1 < pages)
      load_page<T>(args, page_table[page + 1], kv_head, shared_address(staging));
    float score[8][4] = {};
#pragma unroll
    for (int step = 0; step < kDim / 16; ++step) {
      uint32_t a[4];
      load_matrices(q_at + swizzled(lane % 16, 2 * step + lane / 16), a);
#pragma unroll
      for (int n = 0; n < 4; ++n) {  // 16 keys
        uint32_t b[4];
        load_matrices(k_at + swizzled(n * 16 + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2),
                      b);
        mma_bf16(score[2 * n], a[0], a[1], a[2], a[3], b[0], b[1]);
        mma_bf16(score[2 * n + 1], a[0], a[1], a[2], a[3], b[2], b[3]);
      }
    }
    const bool masked = (page + 1) * kPage > start + 1;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int last =
          start + g + 8 * r - page * kPage;  // the last key of the page that the row sees
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = score[n][2 * r + i];
          x *= scale;
          if (masked && n * 8 + 2 * t + i > last) x = -INFINITY;
          top = fmaxf(top, x);
        }
      }
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      // A row always sees key 0, so its maximum is finite from the first page on.
      const float now = fmaxf(maximum[r], top), factor = exp2f(maximum[r] - now);
      maximum[r] = now;
      float total = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& x = score[n][2 * r + i];
          x = exp2f(x - now);
          total += x;
        }
      }
      sum[r] = sum[r] * factor + total;
      if (factor != 1.0f) {
#pragma unroll
        for (int n = 0; n < kDim / 8; ++n) {
          acc[n][2 * r] *= factor;
          acc[n][2 * r + 1] *= factor;
        }
      }
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {  // 16 keys
      const uint32_t a0 = pack_bf16(score[2 * j][0], score[2 * j][1]);
      const uint32_t a1 = pack_bf16(score[2 * j][2], score[2 * j][3]);
      const uint32_t a2 = pack_bf16(score[2 * j + 1][0], score[2 * j + 1][1]);
      const uint32_t a3 = pack_bf16(score[2 * j + 1][2], score[2 * j + 1][3]);
#pragma unroll
      for (int n = 0; n < kDim / 16; ++n) {  // 16 dimensions
        uint32_t b[4];
        load_matrices_transposed(v_at + swizzled(j * 16 + lane % 16, 2 * n + lane / 16), b);
        mma_bf16(acc[2 * n], a0, a1, a2, a3, b[0], b[1]);
        mma_bf16(acc[2 * n + 1], a0, a1, a2, a3, b[2], b[3]);
      }
    }
  }
  const float v_scale = scaled ? args.cache.v_scale : 1.0f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = sum[r];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const int token = g + 8 * r;
    if (token >= item.count) continue;
    float* out =
        args.core + (int64_t(s.first_row + item.first + token) * args.num_heads + head) * kDim;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      *reinterpret_cast<float2*>(out + n * 8 + 2 * t) =
          make_float2(acc[n][2 * r] * v_scale / total, acc[n][2 * r + 1] * v_scale / total);
    }
  }
}

template <typename T>
constexpr int shared_bytes() {
  return kQueryBytes + 2 * kTileBytes + 2 * kPage * kDim * int(sizeof(T));
}

}  // namespace

bool can_prefill_attention(const AttentionArgs& args) {
  return !args.exact_products && args.head_dim == kDim &&
         args.num_heads == kGroup * args.num_kv_heads && args.cache.type != Element::f32;
}

void prefill_attention(const AttentionArgs& args, Stream stream) {
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
