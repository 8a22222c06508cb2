// The gated delta rule of prefill rows, first kernel: everything that does not wait for the state.
//
// With G_i the sum of g up to token i of a chunk of 64, S the state before it, k and q normed:
//   d  = T beta (v - e^G (K S)),   T = (I + A)^-1,  A_ij = beta_i e^(G_i - G_j) (k_i k_j), j < i
//   o  = e^G (Q S) + P d,          P_ij = e^(G_i - G_j) (q_i k_j), j <= i
//   S' = e^G_63 S + K^T (e^(G_63 - G) d)
// CTA = (chunk, key head), which serves two value heads: convolution and SiLU of its 512 channels,
// L2 norms, gates, K K^T and Q K^T on tensor cores, T by substitution in f32. k, q, v, T beta and P
// are rounded to FP16 once; every later use sees the same rounded k, so it is the delta rule of a
// slightly other k, not a less exact one.
#include "kernels/cuda/prefill_delta.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = 256;
constexpr float kQueryScale = 0.08838834764831845f;  // 1 / sqrt(128)

struct TermsShared {
  union {
    struct {
      uint8_t k[kRowTiles * kTileBytes], q[kRowTiles * kTileBytes];
    } tiles;
    float t[2][kChunkTokens][kChunkTokens];  // T, once the tiles have left
  };
  uint8_t t_beta[2][kTileBytes];
  float a[2][kTriangle][16][16];  // A transposed: [block][column j][row i]
  // Running sum of g in units of log 2; then what ChunkTerms holds behind the matrices.
  float total[2][kChunkTokens], beta[2][kChunkTokens];
  float scalars[2][256];
};

/// A CTA's place.
struct ChunkPlace {
  Sequence s;
  int first, key_head;  // first: row of the sequence at which the chunk begins, may be negative
};

constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// Two units in the last place each for the exponential and the reciprocal.
__device__ __forceinline__ float silu_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(1.0f + exp2_fast(-kLog2E * x)));
  return x * y;
}

/// Thread = (value head, token), a warp 32 tokens: gates, and the running sum of g.
__device__ __forceinline__ void gates(const PrefillDeltaArgs& args, const ChunkPlace& place,
                                      int which, int t, TermsShared& shared) {
  const int head = place.key_head * 2 + which, lane = t % 32, token = place.first + t;
  const float rate = -kLog2E * expf(args.a_log[head]), bias = args.dt_bias[head];
  auto exists = [&](int row) { return row >= 0 && row < place.s.q_len; };
  auto at = [&](int row) { return int64_t(place.s.first_row + row) * args.gate_stride + head; };
  auto gate = [&](int row) { return exists(row) ? rate * softplus(args.a[at(row)] + bias) : 0.0f; };
  float g = gate(token);
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const float other = __shfl_up_sync(~0u, g, offset);
    if (lane >= offset) g += other;
  }
  if (t >= 32) g += warp_sum(gate(token - 32));
  shared.total[which][t] = g;
  shared.beta[which][t] = exists(token) ? sigmoid(args.b[at(token)]) : 0.0f;
}

/// Factors 1 / |row| of four rows, a lane holding four columns of each.
__device__ __forceinline__ void norm_factors(const float (&y)[4][4], float (&factor)[4]) {
  const int lane = threadIdx.x % 32;
  float sum[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) {
    sum[r] = y[r][0] * y[r][0] + y[r][1] * y[r][1] + y[r][2] * y[r][2] + y[r][3] * y[r][3];
  }
  const bool b4 = lane & 16, b3 = lane & 8;
  float two[2], x;
#pragma unroll
  for (int j = 0; j < 2; ++j) {
    two[j] = (b4 ? sum[j + 2] : sum[j]) + __shfl_xor_sync(~0u, b4 ? sum[j] : sum[j + 2], 16);
  }
  x = (b3 ? two[1] : two[0]) + __shfl_xor_sync(~0u, b3 ? two[0] : two[1], 8);
#pragma unroll
  for (int offset = 4; offset > 0; offset /= 2) x += __shfl_xor_sync(~0u, x, offset);
  x = rsqrtf(x + 1e-6f);
#pragma unroll
  for (int r = 0; r < 4; ++r) factor[r] = __shfl_sync(~0u, x, 8 * r);
}

/// Warp = 32 tokens of one of q, k, v of two heads; lane = four channels. kFull: the chunk has all
/// its tokens.
template <bool kFull>
__device__ __forceinline__ void convolve(const PrefillDeltaArgs& args, const ChunkPlace& place,
                                         const DeltaScratch& scratch, int index,
                                         TermsShared& shared) {
  const int matrix = threadIdx.x / 64, row0 = threadIdx.x / 32 % 2 * 32, lane = threadIdx.x % 32;
  const Sequence& s = place.s;
  const int64_t keys = int64_t(args.num_key_heads) * kDeltaDim;
  const int64_t width = 2 * keys + int64_t(args.num_value_heads) * kDeltaDim;
  const int head = place.key_head * 2 + matrix - 2;  // value head
  const int64_t channel =
      (matrix < 2 ? matrix * keys + place.key_head * kDeltaDim : 2 * keys + head * kDeltaDim) +
      4 * lane;
  const int begin = place.first + row0;
  const bf16* x = static_cast<const bf16*>(args.qkv) + int64_t(s.first_row) * width + channel;
  auto load = [&](int token) {  // any token: rows of the step, the window before them, zeros
    if (token >= 0 && token < s.q_len) return *reinterpret_cast<const uint2*>(x + token * width);
    if (token >= 0 || token < -3 || s.read_slot < 0) return make_uint2(0, 0);
    return *reinterpret_cast<const uint2*>(
        reinterpret_cast<const bf16*>(static_cast<const char*>(args.window) +
                                      s.read_slot * args.window_stride_bytes) +
        channel + (3 + token) * width);
  };
  const bf16* rows = x + begin * width;  // only for full chunks
  auto load_row = [&](int row) {
    return kFull ? *reinterpret_cast<const uint2*>(rows + row * width) : load(begin + row);
  };
  auto unpack = [](uint2 raw, float(&to)[4]) {
    to[0] = bf16_low(raw.x), to[1] = bf16_high(raw.x);
    to[2] = bf16_low(raw.y), to[3] = bf16_high(raw.y);
  };
  float4 taps[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    taps[j] = reinterpret_cast<const float4*>(args.conv)[channel + j];
  }
  float past[3][4];
#pragma unroll
  for (int j = 0; j < 3; ++j) unpack(load(begin - 3 + j), past[j]);
  uint2 next[4];
#pragma unroll
  for (int r = 0; r < 4; ++r) next[r] = load_row(r);
  // Where the lane's four columns go, row by row: the swizzle has a period of eight rows.
  uint8_t* tile = matrix == 0   ? shared.tiles.q
                  : matrix == 1 ? shared.tiles.k
                                : scratch.values + (int64_t(index) * args.num_value_heads + head) *
                                                       kRowTiles * kTileBytes;
  tile += row0 * 128 + lane % 2 * 8;
#pragma unroll 2
  for (int block = 0; block < 8; ++block) {
    uint2 raw[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      raw[r] = next[r];
      if (block < 7) next[r] = load_row(block * 4 + 4 + r);
    }
    float y[4][4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      float now[4];
      unpack(raw[r], now);
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float sum = past[0][j] * taps[j].x;
        sum = fmaf(past[1][j], taps[j].y, sum);
        sum = fmaf(past[2][j], taps[j].z, sum);
        sum = fmaf(now[j], taps[j].w, sum);
        y[r][j] = silu_fast(sum);
        past[0][j] = past[1][j], past[1][j] = past[2][j], past[2][j] = now[j];
      }
      if (!kFull) {
        const int token = begin + block * 4 + r;
        const float exists = token >= 0 && token < s.q_len ? 1.0f : 0.0f;
#pragma unroll
        for (int j = 0; j < 4; ++j) y[r][j] *= exists;
      }
    }
    float factor[4] = {kValueScale, kValueScale, kValueScale, kValueScale};
    if (matrix < 2) norm_factors(y, factor);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      *reinterpret_cast<uint2*>(tile + tile_offset(block * 4 + r, lane / 2)) =
          make_uint2(pack_half(y[r][0] * factor[r], y[r][1] * factor[r]),
                     pack_half(y[r][2] * factor[r], y[r][3] * factor[r]));
    }
  }
}

/// A's entries of a lane: rows g, g + 8 of the block, columns 8 n + 2 t, + 1.
__device__ __forceinline__ void store_a(TermsShared& shared, int ib, int jb,
                                        const float (&c)[2][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, block = ib * (ib + 1) / 2 + jb;
#pragma unroll
  for (int head = 0; head < 2; ++head) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = g + e / 2 % 2 * 8, column = e / 4 * 8 + 2 * t + e % 2;
      const int i = ib * 16 + row, j = jb * 16 + column;
      const float ratio = exp2_fast(fminf(shared.total[head][i] - shared.total[head][j], 0.0f));
      shared.a[head][block][column][row] =
          i > j ? shared.beta[head][i] * ratio * c[e / 4][e % 4] : 0.0f;
    }
  }
}
/// P's entries of a lane, straight to the scratch.
__device__ __forceinline__ void store_p(const TermsShared& shared, ChunkTerms* terms, int ib,
                                        int jb, const float (&c)[2][4]) {
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
  for (int head = 0; head < 2; ++head) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const int i = ib * 16 + g + e % 2 * 8, j = jb * 16 + e / 2 * 8 + 2 * t;
      const float2 from = *reinterpret_cast<const float2*>(&shared.total[head][j]);
      const float total = shared.total[head][i];
      const float* product = &c[e / 2][e % 2 * 2];
      const float low = i >= j ? exp2_fast(fminf(total - from.x, 0.0f)) * kQueryScale : 0.0f;
      const float high = i > j ? exp2_fast(fminf(total - from.y, 0.0f)) * kQueryScale : 0.0f;
      *reinterpret_cast<uint32_t*>(terms[head].p + tile_offset(i, j / 8) + 4 * t) =
          pack_half(low * product[0], high * product[1]);
    }
  }
}

/// Warp = (A or P, 16 rows): products of rows, then both heads' entries.
__device__ __forceinline__ void multiply_rows(TermsShared& shared, ChunkTerms* terms) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const bool is_p = warp >= 4;
  const int ib = is_p ? warp % 4 : 3 - warp;  // long and short ones on every scheduler
  const uint32_t a_at = shared_address(is_p ? shared.tiles.q : shared.tiles.k);
  const uint32_t b_at = shared_address(shared.tiles.k);
#pragma unroll 1
  for (int jb = 0; jb < 4; ++jb) {
    float c[2][4] = {};
    if (jb <= ib) {
      const int row = ib * 16 + lane % 16, column = jb * 16 + lane % 8 + lane / 16 * 8;
#pragma unroll
      for (int k = 0; k < kDeltaDim / 16; ++k) {
        uint32_t a[4], b[4];
        load_matrices(a_at + tile_offset(row, 2 * k + lane / 16), a);
        load_matrices(b_at + tile_offset(column, 2 * k + lane / 8 % 2), b);
        mma_half(c[0], a, b[0], b[1]);
        mma_half(c[1], a, b[2], b[3]);
      }
    }
    if (is_p) {
      store_p(shared, terms, ib, jb, c);
    } else if (jb <= ib) {
      store_a(shared, ib, jb, c);
    }
  }
}

/// Thread = (value head, column of T): forward substitution, 16 rows at a time.
__device__ __forceinline__ void substitute(int head, int column, TermsShared& shared) {
  const float beta = shared.beta[head][column];
  const int from = column / 32 * 2;  // the warp's first block
  auto store = [&](int row, float x) {
    *reinterpret_cast<__half*>(shared.t_beta[head] + tile_offset(row, column / 8) +
                               column % 8 * 2) = __float2half(x);
  };
  for (int row = 0; row < from * 16; ++row) store(row, 0.0f);
#pragma unroll 1
  for (int ib = from; ib < 4; ++ib) {
    float x[16];
#pragma unroll
    for (int r = 0; r < 16; ++r) x[r] = ib * 16 + r == column ? 1.0f : 0.0f;
    auto subtract = [&](const float* rows, float by, int first) {
#pragma unroll
      for (int r = 0; r < 16; r += 4) {
        if (r + 3 < first) continue;
        const float4 a = *reinterpret_cast<const float4*>(rows + r);
        x[r] = fmaf(-a.x, by, x[r]);
        x[r + 1] = fmaf(-a.y, by, x[r + 1]);
        x[r + 2] = fmaf(-a.z, by, x[r + 2]);
        x[r + 3] = fmaf(-a.w, by, x[r + 3]);
      }
    };
    for (int jb = from; jb < ib; ++jb) {
#pragma unroll 4
      for (int j = 0; j < 16; ++j) {
        subtract(shared.a[head][ib * (ib + 1) / 2 + jb][j], shared.t[head][jb * 16 + j][column], 0);
      }
    }
    // A is zero on and above the diagonal: what is subtracted from rows that are done is nothing.
#pragma unroll
    for (int j = 0; j < 15; ++j) {
      subtract(shared.a[head][ib * (ib + 1) / 2 + ib][j], x[j], j + 1);
    }
#pragma unroll
    for (int r = 0; r < 16; ++r) {
      shared.t[head][ib * 16 + r][column] = x[r];
      store(ib * 16 + r, x[r] * beta);
    }
  }
}

/// Thread = (value head, token).
__device__ __forceinline__ void decays(int head, int token, TermsShared& shared) {
  float* scalars = shared.scalars[head];
  const float total = shared.total[head][token], last = shared.total[head][63];
  scalars[token] = exp2f(total);
  scalars[64 + token] = exp2f(total) * kQueryScale;
  scalars[128 + token] = exp2f(last - total);
  if (token == 0) scalars[192] = exp2f(last);
}

/// grid = (key heads, chunks): CTAs that run together read whole rows.
__global__ void __launch_bounds__(kThreads, 3)
    terms_kernel(PrefillDeltaArgs args, DeltaScratch scratch) {
  extern __shared__ __align__(128) uint8_t raw[];
  TermsShared& shared = *reinterpret_cast<TermsShared*>(raw);
  const int index = blockIdx.y, me = threadIdx.x;
  int sequence = 0;
  while (sequence + 1 < args.step.sequences &&
         first_chunk(args.step.sequence[sequence + 1], sequence + 1) <= index) {
    ++sequence;
  }
  const Sequence s = args.step.sequence[sequence];
  const ChunkPlace place{s, first_place(s) + (index - first_chunk(s, sequence)) * kChunkTokens,
                         int(blockIdx.x)};
  if (place.first >= s.q_len) return;
  if (me >= 128) gates(args, place, (me - 128) / 64, me % 64, shared);
  if (place.first >= 0 && place.first + kChunkTokens <= s.q_len) {
    convolve<true>(args, place, scratch, index, shared);
  } else {
    convolve<false>(args, place, scratch, index, shared);
  }
  async_fence();
  __syncthreads();
  if (me == 0) {
    bulk_store(scratch.rows + (int64_t(index) * args.num_key_heads + place.key_head) * 2 *
                                  kRowTiles * kTileBytes,
               &shared.tiles, 2 * kRowTiles * kTileBytes);
  }
  ChunkTerms* terms = scratch.terms + int64_t(index) * args.num_value_heads + place.key_head * 2;
  multiply_rows(shared, terms);
  if (me == 0) asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  __syncthreads();  // the tiles have been read: T may take their place
  if (me < 128) {
    substitute(me / 64, me % 64, shared);
  } else {
    decays((me - 128) / 64, me % 64, shared);
  }
  async_fence();
  __syncthreads();
  if (me == 0) {
    for (int head = 0; head < 2; ++head) {
      bulk_store(terms[head].t_beta, shared.t_beta[head], kTileBytes);
      bulk_store(terms[head].decay_k, shared.scalars[head], int(sizeof(shared.scalars[head])));
    }
    asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  }
}

}  // namespace

void queue_delta_terms(const PrefillDeltaArgs& args, const DeltaScratch& scratch, unsigned chunks,
                       Stream stream) {
  launch("delta_terms", terms_kernel, dim3(unsigned(args.num_key_heads), chunks), kThreads,
         sizeof(TermsShared), stream, false, args, scratch);
}
void prepare_delta_terms() {
  allow_shared(terms_kernel, sizeof(TermsShared));
}

}  // namespace nibble::cuda
