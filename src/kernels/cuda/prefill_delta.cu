// The gated delta rule of prefill rows, second kernel: the scan over chunks of 64 tokens.
//
// Formulas in prefill_delta_terms.cu. CTA = (half a value head's columns, value head, sequence):
// one warpgroup keeps the transposed state (64 columns x 128 keys, f32) in its accumulators, so
// that every product feeds the next one in registers: S^T and d^T are the left operands of wgmma,
// K, Q, T beta and P come from shared memory. Operands are FP16, sums f32. Chunks lie on multiples
// of 64 tokens of the sequence, so the bits do not depend on where a prompt is cut (at such
// multiples).
#include "kernels/cuda/prefill_delta.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace nibble::cuda {

void queue_delta_terms(const PrefillDeltaArgs& args, const DeltaScratch& scratch, unsigned chunks,
                       Stream stream);
void prepare_delta_terms();

namespace {

constexpr int kThreads = 128, kStages = 3;

struct ScanStage {
  uint8_t k[kRowTiles * kTileBytes], q[kRowTiles * kTileBytes];
  uint8_t v[kTileBytes];
  ChunkTerms terms;
};
static_assert(sizeof(ScanStage) % 1024 == 0);
struct ScanShared {
  ScanStage stages[kStages];
  uint8_t out[4][kChunkTokens * 32];  // a warp's 16 columns
};

__device__ __forceinline__ void load_stage(const PrefillDeltaArgs& args,
                                           const DeltaScratch& scratch, int64_t index, int head,
                                           int half, ScanStage& stage, uint64_t* barrier) {
  const int64_t in_values = index * args.num_value_heads + head;
  barrier_expect(barrier, int(sizeof(ScanStage)));
  bulk_load(stage.k,
            scratch.rows + (index * args.num_key_heads + head / 2) * 2 * kRowTiles * kTileBytes,
            2 * kRowTiles * kTileBytes, barrier);
  bulk_load(stage.v, scratch.values + (in_values * kRowTiles + half) * kTileBytes, kTileBytes,
            barrier);
  bulk_load(&stage.terms, scratch.terms + in_values, int(sizeof(ChunkTerms)), barrier);
}

/// Accumulators of 16 tokens (or keys) as a left operand.
__device__ __forceinline__ void as_operand(const float* d, uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack_half(d[2 * i], d[2 * i + 1]);
}
__device__ __forceinline__ void as_operands(const float (&d)[32], uint32_t (&a)[4][4]) {
#pragma unroll
  for (int j = 0; j < 4; ++j) as_operand(d + 8 * j, a[j]);
}

/// out += x^T M^T, M 64 x 64 (zeros above the diagonal).
__device__ __forceinline__ void multiply_triangle(float (&out)[32], const uint32_t (&x)[4][4],
                                                  const uint8_t* matrix) {
  const uint64_t m = tile_descriptor(shared_address(matrix));
#pragma unroll
  for (int j = 0; j < 4; ++j) wgmma_rows<true>(out, x[j], m + 2 * j);
  wgmma_commit();
}

/// out = (rows S)^T, 64 rows of 128; a: the state as left operands.
__device__ __forceinline__ void read_state(float (&out)[32], const uint32_t (&a)[8][4],
                                           const uint8_t* rows) {
  const uint64_t b = tile_descriptor(shared_address(rows));
  wgmma_rows<false>(out, a[0], b);
#pragma unroll
  for (int k = 1; k < kDeltaDim / 16; ++k) {
    wgmma_rows<true>(out, a[k], b + k / 4 * (kTileBytes >> 4) + k % 4 * 2);
  }
  wgmma_commit();
}

/// x = v - e^G x; d of token pairs in rows of 16 columns per warp.
__device__ __forceinline__ void subtract_from_values(float (&x)[32], const ScanStage& stage) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
  for (int n = 0; n < 8;
       n += 2) {  // matrices: (tokens 8 n, columns 0..), (8 n, 8..), (8 n + 8, ..)
    const int row = n * 8 + lane % 8 + lane / 16 * 8;
    uint32_t v[4];
    load_matrices_transposed(shared_address(stage.v) + tile_offset(row, 2 * warp + lane / 8 % 2),
                             v);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float2 decay =
          *reinterpret_cast<const float2*>(stage.terms.decay_k + (n + i) * 8 + 2 * t);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 value = unpack_half(v[2 * i + h]);
        float* at = x + 4 * (n + i) + 2 * h;
        at[0] = fmaf(-decay.x, at[0], value.x);
        at[1] = fmaf(-decay.y, at[1], value.y);
      }
    }
  }
}
/// Column pairs of tokens times a factor per token.
__device__ __forceinline__ void scale_tokens(float (&x)[32], const float* factors) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    const float2 by = *reinterpret_cast<const float2*>(factors + n * 8 + 2 * (threadIdx.x % 4));
    x[4 * n] *= by.x, x[4 * n + 1] *= by.y, x[4 * n + 2] *= by.x, x[4 * n + 3] *= by.y;
  }
}

/// One chunk up to the new state, which is still being summed: out is complete (columns g, g + 8 of
/// the warp's 16; tokens 8 n + 2 t, + 1).
__device__ __forceinline__ void scan_chunk(const ScanStage& stage, float (&state)[64],
                                           float (&out)[32]) {
  uint32_t operand[8][4];
#pragma unroll
  for (int k = 0; k < 8; ++k) as_operand(state + 8 * k, operand[k]);
  float x[32], d[32];
  wgmma_fence();
  read_state(x, operand, stage.k);
  read_state(out, operand, stage.q);
  wgmma_wait<1>();
  subtract_from_values(x, stage);
  uint32_t token_operand[4][4];
  as_operands(x, token_operand);
#pragma unroll
  for (int i = 0; i < 32; ++i) d[i] = 0.0f;
  wgmma_fence();
  multiply_triangle(d, token_operand, stage.terms.t_beta);
  wgmma_wait<0>();
  scale_tokens(out, stage.terms.decay_q);
  const float all = stage.terms.all;
#pragma unroll
  for (int i = 0; i < 64; ++i) state[i] *= all;
  uint32_t plain[4][4], decayed[4][4];
  as_operands(d, plain);
  scale_tokens(d, stage.terms.rest);
  as_operands(d, decayed);
  wgmma_fence();
  multiply_triangle(out, plain, stage.terms.p);
  const uint64_t k = transposed_descriptor(shared_address(stage.k));
#pragma unroll
  for (int j = 0; j < 4; ++j) wgmma_columns(state, decayed[j], k + 128 * j);
  wgmma_commit();
  wgmma_wait<1>();
}

/// Output of a chunk -> FP16 rows [row][value heads * 128].
__device__ __forceinline__ void store_rows(const PrefillDeltaArgs& args, const Sequence& s,
                                           int first, int64_t column, const float (&out)[32],
                                           uint8_t* staging) {
  const int lane = threadIdx.x % 32;
  constexpr float kBack = 1.0f / kValueScale;
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    const float* d = out + 4 * n;
    store_matrices_transposed(
        shared_address(staging) + ((n + lane / 16) * 8 + lane % 8) * 32 + lane / 8 % 2 * 16,
        pack_half(d[0] * kBack, d[1] * kBack), pack_half(d[2] * kBack, d[3] * kBack),
        pack_half(d[4] * kBack, d[5] * kBack), pack_half(d[6] * kBack, d[7] * kBack));
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
  extern __shared__ uint8_t raw[];
  __shared__ uint64_t full[kStages];
  ScanShared& shared =
      *reinterpret_cast<ScanShared*>(raw + ((1024 - (shared_address(raw) & 1023)) & 1023));
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
  float state[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) state[i] = 0.0f;
  if (s.read_slot >= 0) {
#pragma unroll
    for (int n = 0; n < kDeltaDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state[4 * n + i] = *place(s.read_slot, n, i) * kValueScale;
    }
  }
  auto save = [&](int32_t slot) {
#pragma unroll
    for (int n = 0; n < kDeltaDim / 8; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) *place(slot, n, i) = state[4 * n + i] * (1.0f / kValueScale);
    }
  };
#pragma unroll 1
  for (int n = 0; n < chunks; ++n) {
    const int stage = n % kStages, first = first_token + n * kChunkTokens;
    barrier_wait(&full[stage], n / kStages & 1);
    float out[32];
    scan_chunk(shared.stages[stage], state, out);
    store_rows(args, s, first, int64_t(head) * kDeltaDim + column, out, shared.out[warp]);
    wgmma_wait<0>();
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

constexpr size_t kShared = sizeof(ScanShared) + 1024;  // room to align

int64_t chunk_capacity(int64_t rows, int64_t sequences) {
  return rows / kChunkTokens + 2 * sequences;
}
int64_t chunks_of(const PrefillDeltaArgs& args) {
  return chunk_capacity(args.step.rows, args.step.sequences);
}
DeltaScratch scratch_of(const PrefillDeltaArgs& args) {
  const int64_t chunks = chunks_of(args);
  DeltaScratch scratch;
  scratch.rows = static_cast<uint8_t*>(args.scratch);
  scratch.values = scratch.rows + chunks * args.num_key_heads * 2 * kRowTiles * kTileBytes;
  scratch.terms = reinterpret_cast<ChunkTerms*>(scratch.values + chunks * args.num_value_heads *
                                                                     kRowTiles * kTileBytes);
  return scratch;
}

}  // namespace

size_t prefill_delta_bytes(int64_t max_rows, int32_t num_key_heads, int32_t num_value_heads) {
  return static_cast<size_t>(chunk_capacity(max_rows, kMaxDeltaSequences)) *
         (static_cast<size_t>(num_key_heads) * 2 * kRowTiles * kTileBytes +
          static_cast<size_t>(num_value_heads) * (kRowTiles * kTileBytes + sizeof(ChunkTerms)));
}

int64_t prefill_scan_blocks(int64_t sequences, int32_t num_value_heads) {
  return 2 * sequences * num_value_heads;
}

void prefill_delta_terms(const PrefillDeltaArgs& args, Stream stream) {
  queue_delta_terms(args, scratch_of(args), unsigned(chunks_of(args)), stream);
}

void prefill_delta_scan(const PrefillDeltaArgs& args, Stream stream) {
  launch("delta_scan", scan_kernel,
         dim3(2, unsigned(args.num_value_heads), unsigned(args.step.sequences)), kThreads, kShared,
         stream, false, args, scratch_of(args));
}

void prepare_prefill_delta() {
  allow_shared(scan_kernel, kShared);
  prepare_delta_terms();
}

}  // namespace nibble::cuda
