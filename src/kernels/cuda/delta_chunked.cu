// The gated delta rule of prefill rows on tensor cores, heads of 128 x 128, sixteen tokens at a
// time.
//
// With G_i the sum of g up to token i of a block, S the state before it, f the L2 norms' factors:
//   d = T beta (v - e^G f_k (K S)),  T = (I + A)^-1,  A_ij = beta_i f_k,i f_k,j e^(G_i - G_j) (k_i
//   k_j), j < i o = e^G f_q (Q S) + P d,         P_ij = f_q,i f_k,j e^(G_i - G_j) (q_i k_j), j <= i
//   S' = e^G_15 S + K^T (e^(G_15 - G) f_k d)
// A kernel over all blocks leaves T beta, P, the factors and the parts of q and k; the scan keeps
// the state of (head, 8 columns) in one warp's accumulators (f32). Every operand is two BF16 parts,
// high and low, and a product is high high + high low + low high: with one part alone the goldens
// are missed. Blocks lie on multiples of sixteen tokens of the sequence, so the bits do not depend
// on where a prompt is cut (at such multiples).
#include "kernels/cuda/delta_step.cuh"

namespace nibble::cuda {
namespace {

constexpr int kHead = kDeltaHead, kBlock = 16, kWarps = kDeltaWarps, kStages = 4;

/// What the scan needs of a (block, value head).
struct BlockTerms {
  bf16 t_beta[2][kBlock][kBlock], p[2][kBlock][kBlock];  // high parts, low parts
  float decay_k[kBlock], decay_q[kBlock], rest[kBlock];  // e^G f_k, e^G f_q, e^(G_15 - G) f_k
  float all;  // e^G_15
  float unused[15];
};
static_assert(sizeof(BlockTerms) == 2304);

/// Blocks of sequence s begin here in the list of all blocks; enough for any alignment.
__device__ __forceinline__ int first_block(const Sequence& s, int sequence) {
  return s.first_row / kBlock + 2 * sequence;
}
__device__ __forceinline__ int first_place(const Sequence& s) {
  return -((s.kv_len - s.q_len) % kBlock);
}

__device__ __forceinline__ uint32_t transpose(uint32_t x) {
  uint32_t out;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(x));
  return out;
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

// ---------------------------------------------------------------- terms of all blocks

struct TermsShared {
  float k_factor[kBlock], q_factor[kBlock], total[2][kBlock], beta[2][kBlock];
  float kk[kBlock][kBlock + 1], qk[kBlock][kBlock + 1];
};

/// 8 values as pairs of BF16 parts.
struct RowParts {
  uint4 high, low;
};

__device__ __forceinline__ void split_pair(float a, float b, uint32_t& high, uint32_t& low) {
  high = pack_bf16(a, b);
  low = pack_bf16(a - bf16_low(high), b - bf16_high(high));
}

/// 8 values of a row (zeros where there is no token), and their square sum.
__device__ __forceinline__ RowParts load_row(const float* x, bool exists, float& square) {
  RowParts out{make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
  if (!exists) return out;
  const float4 a = reinterpret_cast<const float4*>(x)[0], b = reinterpret_cast<const float4*>(x)[1];
  square +=
      a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z + b.w * b.w;
  split_pair(a.x, a.y, out.high.x, out.low.x);
  split_pair(a.z, a.w, out.high.y, out.low.y);
  split_pair(b.x, b.y, out.high.z, out.low.z);
  split_pair(b.z, b.w, out.high.w, out.low.w);
  return out;
}

/// d += rows (g, g + 8) times column rows, 32 k.
__device__ __forceinline__ void multiply_rows(float (&d)[4], const uint4& a0, const uint4& a1,
                                              const uint4& b) {
  mma_bf16(d, a0.x, a1.x, a0.y, a1.y, b.x, b.y);
  mma_bf16(d, a0.z, a1.z, a0.w, a1.w, b.z, b.w);
}

__device__ __forceinline__ void store_parts(bf16 (&to)[2][kBlock][kBlock], int i, int j, float x) {
  const bf16 high = __float2bfloat16(x);
  to[0][i][j] = high;
  to[1][i][j] = __float2bfloat16(x - __bfloat162float(high));
}

/// A warp per (block, key head), which serves two value heads.
__global__ void __launch_bounds__(128) terms_kernel(GatedDeltaArgs args) {
  __shared__ TermsShared all_shared[4];
  TermsShared& shared = all_shared[threadIdx.x / 32];
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int key_head = blockIdx.y * 4 + threadIdx.x / 32, index = blockIdx.x;
  int sequence = 0;
  while (sequence + 1 < args.step.sequences &&
         first_block(args.step.sequence[sequence + 1], sequence + 1) <= index) {
    ++sequence;
  }
  const Sequence s = args.step.sequence[sequence];
  const int first = first_place(s) + (index - first_block(s, sequence)) * kBlock;
  if (first >= s.q_len || key_head >= args.num_key_heads) return;
  const int64_t keys = int64_t(args.num_key_heads) * kHead;
  const int64_t width = 2 * keys + int64_t(args.num_value_heads) * kHead;

  // Rows g and g + 8 in mma order: k permuted inside each 32 alike for both operands.
  RowParts q[4][2], k[4][2];
  float q_square[2] = {}, k_square[2] = {};
  bf16* rows_out = static_cast<bf16*>(args.rows_bf16);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = g + 8 * half, token = first + place;
    const bool exists = token >= 0 && token < s.q_len;
    const float* x = args.qkv + (s.first_row + (exists ? token : 0)) * width + key_head * kHead;
    bf16* out =
        rows_out + ((int64_t(index) * args.num_key_heads + key_head) * kBlock + place) * 4 * kHead;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      q[i][half] = load_row(x + i * 32 + t * 8, exists, q_square[half]);
      k[i][half] = load_row(x + keys + i * 32 + t * 8, exists, k_square[half]);
      uint4* to = reinterpret_cast<uint4*>(out + i * 32 + t * 8);
      to[0] = q[i][half].high;
      to[kHead / 8] = q[i][half].low;
      to[2 * kHead / 8] = k[i][half].high;
      to[3 * kHead / 8] = k[i][half].low;
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int offset = 1; offset < 4; offset *= 2) {
      q_square[half] += __shfl_xor_sync(~0u, q_square[half], offset);
      k_square[half] += __shfl_xor_sync(~0u, k_square[half], offset);
    }
    if (t == 0) {
      shared.q_factor[g + 8 * half] = rsqrtf(q_square[half] + 1e-6f) * kQueryScale;
      shared.k_factor[g + 8 * half] = rsqrtf(k_square[half] + 1e-6f);
    }
  }
#pragma unroll
  for (int n = 0; n < 2; ++n) {  // columns: tokens 8 n ..
    float kk[4] = {}, qk[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const RowParts& b = k[i][n];
      multiply_rows(kk, k[i][0].high, k[i][1].high, b.high);
      multiply_rows(kk, k[i][0].high, k[i][1].high, b.low);
      multiply_rows(kk, k[i][0].low, k[i][1].low, b.high);
      multiply_rows(qk, q[i][0].high, q[i][1].high, b.high);
      multiply_rows(qk, q[i][0].high, q[i][1].high, b.low);
      multiply_rows(qk, q[i][0].low, q[i][1].low, b.high);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      shared.kk[g + 8 * (i / 2)][8 * n + 2 * t + i % 2] = kk[i];
      shared.qk[g + 8 * (i / 2)][8 * n + 2 * t + i % 2] = qk[i];
    }
  }
  // Half a warp per value head: lane % 16 is a token, then a column of T.
  const int which = lane / 16, c = lane % 16, token = first + c, head = key_head * 2 + which;
  const bool exists = token >= 0 && token < s.q_len;
  const int64_t at = int64_t(s.first_row + token) * args.num_value_heads + head;
  float total = exists ? args.g[at] : 0.0f;
#pragma unroll
  for (int offset = 1; offset < 16; offset *= 2) {
    const float other = __shfl_up_sync(~0u, total, offset, 16);
    if (c >= offset) total += other;
  }
  shared.total[which][c] = total;
  shared.beta[which][c] = exists ? args.beta[at] : 0.0f;
  __syncwarp();
  BlockTerms& out =
      reinterpret_cast<BlockTerms*>(args.terms)[int64_t(index) * args.num_value_heads + head];
  const float last = shared.total[which][kBlock - 1];
  out.decay_k[c] = expf(total) * shared.k_factor[c];
  out.decay_q[c] = expf(total) * shared.q_factor[c];
  out.rest[c] = expf(last - total) * shared.k_factor[c];
  if (c == 0) out.all = expf(last);
  float column[kBlock];  // of T
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    // e^(G_i - G_c) only where it is below one.
    const float ratio = i >= c ? expf(shared.total[which][i] - total) : 0.0f;
    store_parts(out.p, i, c,
                i >= c ? shared.q_factor[i] * shared.k_factor[c] * ratio * shared.qk[i][c] : 0.0f);
    float x = i == c ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < i; ++j) {
      const float a = shared.beta[which][i] * shared.k_factor[i] * shared.k_factor[j] *
                      __expf(shared.total[which][i] - shared.total[which][j]) * shared.kk[i][j];
      x = fmaf(-a, column[j], x);
    }
    column[i] = x;
    store_parts(out.t_beta, i, c, x * shared.beta[which][c]);
  }
}

// ---------------------------------------------------------------- scan

/// A block of tokens in shared memory; rows of q and k are swizzled in pieces of 16 bytes.
struct ScanStage {
  bf16 rows[4][kBlock][kHead];  // q high, q low, k high, k low
  float v[kBlock][kDeltaColumnsPerBlock];
  BlockTerms terms;
};

__device__ __forceinline__ void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}
__device__ __forceinline__ int swizzled(int row, int piece) {
  return row * kHead * 2 + ((piece ^ (row & 7)) << 4);
}

__device__ __forceinline__ void load_stage(const GatedDeltaArgs& args, const Sequence& s, int head,
                                           int index, int first, ScanStage& stage) {
  constexpr int kThreads = kWarps * 32;
  const int me = threadIdx.x, key_head = head / 2;
  const char* rows = reinterpret_cast<const char*>(
      static_cast<const bf16*>(args.rows_bf16) +
      (int64_t(index) * args.num_key_heads + key_head) * kBlock * 4 * kHead);
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const int i = n * kThreads + me, row = i / 64, piece = i % 64;
    copy_async(reinterpret_cast<char*>(stage.rows[piece / 16]) + swizzled(row, piece % 16),
               rows + i * 16);
  }
  {
    const int row = me / 8, piece = me % 8 * 4, token = first + row;
    const int64_t keys = int64_t(args.num_key_heads) * kHead;
    const int64_t width = 2 * keys + int64_t(args.num_value_heads) * kHead;
    const int64_t source =
        s.first_row + min(max(token, 0), s.q_len - 1);  // beta is 0 where there is none
    copy_async(&stage.v[row][piece], args.qkv + source * width + 2 * keys + head * kHead +
                                         blockIdx.x * kDeltaColumnsPerBlock + piece);
  }
  const char* terms =
      reinterpret_cast<const char*>(reinterpret_cast<const BlockTerms*>(args.terms) +
                                    int64_t(index) * args.num_value_heads + head);
  for (int i = me; i < int(sizeof(BlockTerms) / 16); i += kThreads) {
    copy_async(reinterpret_cast<char*>(&stage.terms) + i * 16, terms + i * 16);
  }
}

/// State of 128 keys x 8 columns as accumulators: tile i, keys 16 i + g (+ 8), columns 2 t, 2 t
/// + 1.
struct ScanState {
  float s[8][4];
};

/// Two values as BF16 parts that add up to them, transposed into operand order.
struct Parts {
  uint32_t high, low;
};
__device__ __forceinline__ Parts split(float a, float b) {
  const uint32_t high = pack_bf16(a, b);
  return {transpose(high), transpose(pack_bf16(a - bf16_low(high), b - bf16_high(high)))};
}

/// d[0] + d[1] += A B, A (16 x 16) at two addresses of this lane's ldmatrix rows, B 16 x 8 as
/// parts.
__device__ __forceinline__ void multiply_parts(float (&d)[2][4], uint32_t high, uint32_t low,
                                               const Parts& b0, const Parts& b1) {
  uint32_t a[4];
  load_matrices(high, a);
  mma_bf16(d[0], a[0], a[1], a[2], a[3], b0.high, b1.high);
  mma_bf16(d[1], a[0], a[1], a[2], a[3], b0.low, b1.low);
  load_matrices(low, a);
  mma_bf16(d[1], a[0], a[1], a[2], a[3], b0.high, b1.high);
}

/// One block; out: tokens g (and g + 8), columns 2 t, 2 t + 1.
__device__ __forceinline__ void scan_block(const ScanStage& stage, ScanState& state,
                                           float (&out)[4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t q_at = shared_address(stage.rows[0]), k_at = shared_address(stage.rows[2]);
  constexpr uint32_t kLowPart = kBlock * kHead * 2;
  const BlockTerms& terms = stage.terms;
  float ks[2][4] = {}, qs[2][4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const Parts low_keys = split(state.s[i][0], state.s[i][1]);
    const Parts high_keys = split(state.s[i][2], state.s[i][3]);
    const int at = swizzled(lane % 16, 2 * i + lane / 16);
    multiply_parts(ks, k_at + at, k_at + kLowPart + at, low_keys, high_keys);
    multiply_parts(qs, q_at + at, q_at + kLowPart + at, low_keys, high_keys);
  }
  float x[4];  // v - e^G f_k (K S)
  float d[2][4] = {}, o[2][4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = g + 8 * (i / 2);
    x[i] = stage.v[row][warp * kDeltaColumnsPerWarp + 2 * t + i % 2] -
           terms.decay_k[row] * (ks[0][i] + ks[1][i]);
    o[0][i] = terms.decay_q[row] * (qs[0][i] + qs[1][i]);
  }
  const int place = lane % 16, column = lane / 16 * 8;
  multiply_parts(d, shared_address(&terms.t_beta[0][place][column]),
                 shared_address(&terms.t_beta[1][place][column]), split(x[0], x[1]),
                 split(x[2], x[3]));
#pragma unroll
  for (int i = 0; i < 4; ++i) d[0][i] += d[1][i];
  multiply_parts(o, shared_address(&terms.p[0][place][column]),
                 shared_address(&terms.p[1][place][column]), split(d[0][0], d[0][1]),
                 split(d[0][2], d[0][3]));
#pragma unroll
  for (int i = 0; i < 4; ++i) out[i] = o[0][i] + o[1][i];
  const float rest_low = terms.rest[g], rest_high = terms.rest[g + 8], all = terms.all;
  const Parts d_low = split(d[0][0] * rest_low, d[0][1] * rest_low);
  const Parts d_high = split(d[0][2] * rest_high, d[0][3] * rest_high);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) state.s[i][j] *= all;
    const int at = swizzled(lane % 8 + lane / 16 * 8, 2 * i + lane / 8 % 2);
    uint32_t a[4];
    load_matrices_transposed(k_at + at, a);
    mma_bf16(state.s[i], a[0], a[1], a[2], a[3], d_low.high, d_high.high);
    mma_bf16(state.s[i], a[0], a[1], a[2], a[3], d_low.low, d_high.low);
    load_matrices_transposed(k_at + kLowPart + at, a);
    mma_bf16(state.s[i], a[0], a[1], a[2], a[3], d_low.high, d_high.high);
  }
}

/// grid = (dv / 32, value heads, sequences).
__global__ void __launch_bounds__(kWarps * 32) chunked_kernel(GatedDeltaArgs args) {
  extern __shared__ __align__(128) uint8_t raw_shared[];
  ScanStage* stages = reinterpret_cast<ScanStage*>(raw_shared);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int head = blockIdx.y, sequence = blockIdx.z;
  const Sequence s = args.step.sequence[sequence];
  const int column = blockIdx.x * kDeltaColumnsPerBlock + warp * kDeltaColumnsPerWarp + 2 * t;
  const int start = s.kv_len - s.q_len, first_token = first_place(s);
  const int blocks = (s.q_len - first_token + kBlock - 1) / kBlock;
  const int first_index = first_block(s, sequence);
  auto load = [&](int n) {
    if (n < blocks) {
      load_stage(args, s, head, first_index + n, first_token + n * kBlock, stages[n % kStages]);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  };
#pragma unroll
  for (int n = 0; n < kStages - 1; ++n) load(n);
  auto place = [&](int32_t slot, int i, int half) {
    return reinterpret_cast<float2*>(args.state + slot * args.state_stride +
                                     (int64_t(head) * kHead + 16 * i + g + 8 * half) * kHead +
                                     column);
  };
  ScanState state = {};
  if (s.read_slot >= 0) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 x = *place(s.read_slot, i, half);
        state.s[i][2 * half] = x.x;
        state.s[i][2 * half + 1] = x.y;
      }
    }
  }
  auto store = [&](int32_t slot) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        *place(slot, i, half) = make_float2(state.s[i][2 * half], state.s[i][2 * half + 1]);
      }
    }
  };
  for (int n = 0; n < blocks; ++n) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // block n is there for all, and all are done with block n - 1
    load(n + kStages - 1);
    float out[4];
    scan_block(stages[n % kStages], state, out);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int token = first_token + n * kBlock + g + 8 * half;
      if (token >= 0 && token < s.q_len) {
        *reinterpret_cast<float2*>(
            args.core + (int64_t(s.first_row + token) * args.num_value_heads + head) * kHead +
            column) = make_float2(out[2 * half], out[2 * half + 1]);
      }
    }
    const int reached = start + first_token + (n + 1) * kBlock;
    if (args.step.saves > 0 && reached % 64 == 0) {
      for (int i = 0; i < args.step.saves; ++i) {
        const StateSave save = args.step.save[i];
        if (save.sequence == sequence && save.num_tokens == reached) store(save.slot);
      }
    }
  }
  store(s.write_slot);
}

int64_t max_blocks(int64_t rows) {
  return rows / kBlock + 2 * (rows < 1024 ? rows : 1024);
}

}  // namespace

size_t delta_chunked_bytes(int64_t max_rows, int32_t num_key_heads, int32_t num_value_heads) {
  const auto blocks = static_cast<size_t>(max_blocks(max_rows));
  return blocks * (static_cast<size_t>(num_value_heads) * sizeof(BlockTerms) +
                   static_cast<size_t>(num_key_heads) * kBlock * 4 * kHead * sizeof(bf16));
}

bool can_delta_chunked(const GatedDeltaArgs& args) {
  return args.chunked != nullptr && args.key_head_dim == kHead && args.value_head_dim == kHead &&
         args.num_value_heads == 2 * args.num_key_heads && args.step.rows > args.step.sequences;
}

void delta_chunked(const GatedDeltaArgs& with_scratch, Stream stream) {
  GatedDeltaArgs args = with_scratch;
  const unsigned blocks = unsigned(args.step.rows / kBlock + 2 * args.step.sequences);
  args.terms = args.chunked;
  args.rows_bf16 = static_cast<char*>(args.chunked) +
                   size_t(blocks) * size_t(args.num_value_heads) * sizeof(BlockTerms);
  launch("delta_terms", terms_kernel, dim3(blocks, ceil_div(args.num_key_heads, 4)), 128, 0, stream,
         false, args);
  constexpr size_t kShared = kStages * sizeof(ScanStage);
  allow_shared(chunked_kernel, kShared);
  const dim3 grid(kHead / kDeltaColumnsPerBlock, unsigned(args.num_value_heads),
                  unsigned(args.step.sequences));
  launch("delta_chunked", chunked_kernel, grid, kWarps * 32, kShared, stream, false, args);
}

}  // namespace nibble::cuda
