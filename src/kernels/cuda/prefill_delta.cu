// The gated delta rule of prefill rows, second kernel: the scan over chunks of 64 tokens.
//
// Formulas in prefill_delta_terms.cu. CTA = (half a value head's columns, value head, sequence);
// a warp keeps the transposed state of 16 columns (16 x 128, f32) in its accumulators, so that
// every product feeds the next one in registers: S^T and d^T are the left operands, K, Q, T beta
// and P come from shared memory. Operands are FP16, sums f32. Chunks lie on multiples of 64 tokens
// of the sequence, so the bits do not depend on where a prompt is cut (at such multiples).
#include "kernels/cuda/prefill_delta.cuh"

namespace nibble::cuda {

void queue_delta_terms(const PrefillDeltaArgs& args, const DeltaScratch& scratch, unsigned chunks,
                       Stream stream);
void prepare_delta_terms();

namespace {

constexpr int kThreads = 128, kStages = 4, kTokenTiles = kChunkTokens / 8;

struct ScanStage {
  uint8_t k[kKeyTileBytes], q[kKeyTileBytes];
  uint8_t v[kValueTileBytes];
  ChunkTerms terms;
};
struct ScanShared {
  ScanStage stages[kStages];
  uint8_t out[4][kChunkTokens * 32];  // a warp's 16 columns
};

__device__ __forceinline__ void copy_bulk(void* to, const void* from, int bytes,
                                          uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

__device__ __forceinline__ void load_stage(const PrefillDeltaArgs& args,
                                           const DeltaScratch& scratch, int64_t index, int head,
                                           int half, ScanStage& stage, uint64_t* barrier) {
  const int64_t in_values = index * args.num_value_heads + head;
  barrier_expect(barrier, int(sizeof(ScanStage)));
  copy_bulk(stage.k, scratch.rows + (index * args.num_key_heads + head / 2) * 2 * kKeyTileBytes,
            2 * kKeyTileBytes, barrier);
  copy_bulk(stage.v, scratch.values + (in_values * 2 + half) * kValueTileBytes, kValueTileBytes,
            barrier);
  copy_bulk(&stage.terms, scratch.terms + in_values, int(sizeof(ChunkTerms)), barrier);
}

/// Transposed state of a warp: tile n: columns g, g + 8, keys 8 n + 2 t, + 1.
struct ScanState {
  float s[kDeltaDim / 8][4];
};

/// Accumulators of 16 tokens as a left operand.
__device__ __forceinline__ void as_operand(const float (&low)[4], const float (&high)[4],
                                           uint32_t (&a)[4]) {
  a[0] = pack_half(low[0], low[1]);
  a[1] = pack_half(low[2], low[3]);
  a[2] = pack_half(high[0], high[1]);
  a[3] = pack_half(high[2], high[3]);
}

/// out += x^T M^T, M lower triangular.
__device__ __forceinline__ void multiply_triangle(float (&out)[kTokenTiles][4],
                                                  const uint32_t (&x)[4][4],
                                                  const TriangleHalf& matrix) {
  const uint32_t at = shared_address(&matrix) + threadIdx.x % 32 * 16;
#pragma unroll
  for (int jb = 0; jb < 4; ++jb) {
#pragma unroll
    for (int ib = jb; ib < 4; ++ib) {
      uint32_t b[4];
      load_matrices(at + (ib * (ib + 1) / 2 + jb) * 512, b);
      mma_half(out[2 * ib], x[jb], b[0], b[1]);
      mma_half(out[2 * ib + 1], x[jb], b[2], b[3]);
    }
  }
}

/// One chunk: advances the state, out: columns g, g + 8, tokens 8 n + 2 t, + 1.
__device__ __forceinline__ void scan_chunk(const ScanStage& stage, ScanState& state,
                                           float (&out)[kTokenTiles][4]) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
  const uint32_t k_at = shared_address(stage.k), q_at = shared_address(stage.q);
  const ChunkTerms& terms = stage.terms;
  float x[kTokenTiles][4] = {};  // K S, then v - e^G (K S)
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[n][i] = 0;
  }
#pragma unroll
  for (int k = 0; k < kDeltaDim / 16; ++k) {
    uint32_t a[4];
    as_operand(state.s[2 * k], state.s[2 * k + 1], a);
#pragma unroll
    for (int n = 0; n < kTokenTiles; n += 2) {
      const int row = n * 8 + lane % 8 + lane / 16 * 8;
      const int at = row * 256 + (((2 * k + lane / 8 % 2) ^ (row & 7)) << 4);
      uint32_t b[4];
      load_matrices(k_at + at, b);
      mma_half(x[n], a, b[0], b[1]);
      mma_half(x[n + 1], a, b[2], b[3]);
      load_matrices(q_at + at, b);
      mma_half(out[n], a, b[0], b[1]);
      mma_half(out[n + 1], a, b[2], b[3]);
    }
  }
#pragma unroll
  for (int n = 0; n < kTokenTiles; n += 2) {  // matrices: (tokens n, columns 0..), (n, 8..), ...
    const int row = n * 8 + lane % 8 + lane / 16 * 8, piece = 2 * warp + lane / 8 % 2;
    uint32_t v[4];
    load_matrices_transposed(shared_address(stage.v) + row * 128 + ((piece ^ (row & 7)) << 4), v);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = (n + i) * 8 + 2 * t;
      const float2 decay = *reinterpret_cast<const float2*>(terms.decay_k + token);
      const float2 decay_q = *reinterpret_cast<const float2*>(terms.decay_q + token);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 value = unpack_half(v[2 * i + h]);
        x[n + i][2 * h] = fmaf(-decay.x, x[n + i][2 * h], value.x);
        x[n + i][2 * h + 1] = fmaf(-decay.y, x[n + i][2 * h + 1], value.y);
        out[n + i][2 * h] *= decay_q.x;
        out[n + i][2 * h + 1] *= decay_q.y;
      }
    }
  }
  uint32_t operand[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) as_operand(x[2 * j], x[2 * j + 1], operand[j]);
  float d[kTokenTiles][4] = {};
  multiply_triangle(d, operand, terms.t_beta);
#pragma unroll
  for (int j = 0; j < 4; ++j) as_operand(d[2 * j], d[2 * j + 1], operand[j]);
  multiply_triangle(out, operand, terms.p);
#pragma unroll
  for (int n = 0; n < kTokenTiles; ++n) {
    const float2 rest = *reinterpret_cast<const float2*>(terms.rest + n * 8 + 2 * t);
    d[n][0] *= rest.x, d[n][1] *= rest.y, d[n][2] *= rest.x, d[n][3] *= rest.y;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) as_operand(d[2 * j], d[2 * j + 1], operand[j]);
  const float all = terms.all;
#pragma unroll
  for (int n = 0; n < kDeltaDim / 8; n += 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      state.s[n][i] *= all;
      state.s[n + 1][i] *= all;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int row = j * 16 + lane % 16, piece = n + lane / 16;
      uint32_t b[4];
      load_matrices_transposed(k_at + row * 256 + ((piece ^ (row & 7)) << 4), b);
      mma_half(state.s[n], operand[j], b[0], b[1]);
      mma_half(state.s[n + 1], operand[j], b[2], b[3]);
    }
  }
}

/// Output of a chunk -> FP16 rows [row][value heads * 128].
__device__ __forceinline__ void store_rows(const PrefillDeltaArgs& args, const Sequence& s,
                                           int first, int64_t column,
                                           const float (&out)[kTokenTiles][4], uint8_t* staging) {
  const int lane = threadIdx.x % 32;
  constexpr float kBack = 1.0f / kValueScale;
#pragma unroll
  for (int n = 0; n < kTokenTiles; n += 2) {
    store_matrices_transposed(
        shared_address(staging) + ((n + lane / 16) * 8 + lane % 8) * 32 + lane / 8 % 2 * 16,
        pack_half(out[n][0] * kBack, out[n][1] * kBack),
        pack_half(out[n][2] * kBack, out[n][3] * kBack),
        pack_half(out[n + 1][0] * kBack, out[n + 1][1] * kBack),
        pack_half(out[n + 1][2] * kBack, out[n + 1][3] * kBack));
  }
  __syncwarp();
  const int64_t width = int64_t(args.num_value_heads) * kDeltaDim;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = i * 32 + lane, token = first + at / 2;
    if (token >= 0 && token < s.q_len) {
      *reinterpret_cast<uint4*>(static_cast<__half*>(args.core) + (s.first_row + token) * width +
                                column + at % 2 * 8) =
          *reinterpret_cast<const uint4*>(staging + at * 16);
    }
  }
  __syncwarp();
}

/// grid = (2, value heads, sequences).
__global__ void __launch_bounds__(kThreads, 1)
    scan_kernel(PrefillDeltaArgs args, DeltaScratch scratch) {
  extern __shared__ __align__(128) uint8_t raw[];
  __shared__ uint64_t full[kStages];
  ScanShared& shared = *reinterpret_cast<ScanShared*>(raw);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int half = blockIdx.x, head = blockIdx.y, sequence = blockIdx.z;
  const Sequence s = args.step.sequence[sequence];
  const int column = half * 64 + warp * 16;
  const int start = s.kv_len - s.q_len, first_token = first_place(s);
  const int chunks = (s.q_len - first_token + kChunkTokens - 1) / kChunkTokens;
  const int first_index = first_chunk(s, sequence);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) barrier_init(&full[i], 1);
    barrier_init_fence();
    for (int n = 0; n < min(kStages, chunks); ++n) {
      load_stage(args, scratch, first_index + n, head, half, shared.stages[n], &full[n]);
    }
  }
  __syncthreads();
  auto place = [&](int32_t slot, int n, int i) {
    return args.state + slot * args.state_stride +
           (int64_t(head) * kDeltaDim + 8 * n + 2 * t + i % 2) * kDeltaDim + column + g + i / 2 * 8;
  };
  ScanState state = {};
  if (s.read_slot >= 0) {
#pragma unroll
    for (int n = 0; n < kDeltaDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.s[n][i] = *place(s.read_slot, n, i) * kValueScale;
    }
  }
  auto save = [&](int32_t slot) {
#pragma unroll
    for (int n = 0; n < kDeltaDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) *place(slot, n, i) = state.s[n][i] * (1.0f / kValueScale);
    }
  };
#pragma unroll 1
  for (int n = 0; n < chunks; ++n) {
    const int stage = n % kStages, first = first_token + n * kChunkTokens;
    barrier_wait(&full[stage], n / kStages & 1);
    float out[kTokenTiles][4];
    scan_chunk(shared.stages[stage], state, out);
    store_rows(args, s, first, int64_t(head) * kDeltaDim + column, out, shared.out[warp]);
    const int reached = start + first + kChunkTokens;
    for (int i = 0; i < args.step.saves; ++i) {
      const StateSave wanted = args.step.save[i];
      if (wanted.sequence == sequence && wanted.num_tokens == reached) save(wanted.slot);
    }
    __syncthreads();  // all are done with the stage
    if (threadIdx.x == 0 && n + kStages < chunks) {
      load_stage(args, scratch, first_index + n + kStages, head, half, shared.stages[stage],
                 &full[stage]);
    }
  }
  save(s.write_slot);
}

int64_t chunk_capacity(int64_t rows, int64_t sequences) {
  return rows / kChunkTokens + 2 * sequences;
}

}  // namespace

size_t prefill_delta_bytes(int64_t max_rows, int32_t num_key_heads, int32_t num_value_heads) {
  return static_cast<size_t>(chunk_capacity(max_rows, kMaxDeltaSequences)) *
         (static_cast<size_t>(num_key_heads) * 2 * kKeyTileBytes +
          static_cast<size_t>(num_value_heads) * (2 * kValueTileBytes + sizeof(ChunkTerms)));
}

void prefill_delta(const PrefillDeltaArgs& args, Stream stream) {
  const int64_t chunks = chunk_capacity(args.step.rows, args.step.sequences);
  DeltaScratch scratch;
  scratch.rows = static_cast<uint8_t*>(args.scratch);
  scratch.values = scratch.rows + chunks * args.num_key_heads * 2 * kKeyTileBytes;
  scratch.terms = reinterpret_cast<ChunkTerms*>(scratch.values + chunks * args.num_value_heads * 2 *
                                                                     kValueTileBytes);
  queue_delta_terms(args, scratch, unsigned(chunks), stream);
  launch("delta_scan", scan_kernel,
         dim3(2, unsigned(args.num_value_heads), unsigned(args.step.sequences)), kThreads,
         sizeof(ScanShared), stream, false, args, scratch);
}

void prepare_prefill_delta() {
  allow_shared(scan_kernel, sizeof(ScanShared));
  prepare_delta_terms();
}

}  // namespace nibble::cuda
