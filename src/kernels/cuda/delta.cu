// Gated DeltaNet: the delta rule as a scan over tokens, f32 throughout.
//
// One scan serves decode, verify and prefill rows: the state of (head, 8 value columns) stays in
// one warp's registers while tokens go by, so the bits do not depend on where a prompt is cut (at
// multiples of four). Legend: dk, dv key and value head size; the state is [dk][dv] f32.
#include "kernels/cuda/delta_step.cuh"

namespace nibble::cuda {
namespace {

// ---------------------------------------------------------------- delta rule, any sizes

/// CTA = one value head of one sequence; thread = value column; the state in shared memory.
__global__ void delta_generic_kernel(GatedDeltaArgs args) {
  extern __shared__ float shared[];
  const int dk = args.key_head_dim, dv = args.value_head_dim, head = blockIdx.x;
  float* state = shared;
  float* q = state + dk * dv;
  float* k = q + dk;
  const Sequence s = args.step.sequence[blockIdx.y];
  const int key_head = head / (args.num_value_heads / args.num_key_heads);
  const int64_t keys = int64_t(args.num_key_heads) * dk;
  const int64_t width = 2 * keys + int64_t(args.num_value_heads) * dv;
  auto slot = [&](int32_t n) {
    return args.state + n * args.state_stride + int64_t(head) * dk * dv;
  };
  for (int i = threadIdx.x; i < dk * dv; i += blockDim.x) {
    state[i] = s.read_slot < 0 ? 0.0f : slot(s.read_slot)[i];
  }
  for (int t = 0; t < s.q_len; ++t) {
    const int64_t row = s.first_row + t;
    const float* x = args.qkv + row * width;
    float q_square = 0, k_square = 0;
    for (int i = threadIdx.x; i < dk; i += blockDim.x) {
      q[i] = x[key_head * dk + i];
      k[i] = x[keys + key_head * dk + i];
      q_square += q[i] * q[i];
      k_square += k[i] * k[i];
    }
    const float q_factor = rsqrtf(block_sum(q_square) + 1e-6f) * rsqrtf(float(dk));
    const float k_factor = rsqrtf(block_sum(k_square) + 1e-6f);
    __syncthreads();
    const float decay = expf(args.g[row * args.num_value_heads + head]);
    const float beta = args.beta[row * args.num_value_heads + head];
    for (int j = threadIdx.x; j < dv; j += blockDim.x) {
      float read = 0;
      for (int i = 0; i < dk; ++i) {
        state[i * dv + j] *= decay;
        read = fmaf(state[i * dv + j], k[i] * k_factor, read);
      }
      const float d = (x[2 * keys + head * dv + j] - read) * beta;
      float out = 0;
      for (int i = 0; i < dk; ++i) {
        state[i * dv + j] = fmaf(k[i] * k_factor, d, state[i * dv + j]);
        out = fmaf(state[i * dv + j], q[i] * q_factor, out);
      }
      args.core[(row * args.num_value_heads + head) * dv + j] = out;
    }
    const int reached = s.kv_len - s.q_len + t + 1;
    for (int n = 0; n < args.step.saves && reached % 64 == 0; ++n) {
      const StateSave save = args.step.save[n];
      if (save.sequence != int(blockIdx.y) || save.num_tokens != reached) continue;
      for (int i = 0; i < dk; ++i) {
        for (int j = threadIdx.x; j < dv; j += blockDim.x)
          slot(save.slot)[i * dv + j] = state[i * dv + j];
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < dk * dv; i += blockDim.x) slot(s.write_slot)[i] = state[i];
}

// ---------------------------------------------------------------- delta rule, 128 x 128
//
// Four tokens at a time, exactly: with D_i the decay up to token i of the block and S the state
// before it,
//   d_i = beta_i (v_i - D_i (k_i S) - sum_{j<i} D_i/D_j (k_i k_j) d_j)
//   o_i = D_i (q_i S) + sum_{j<=i} D_i/D_j (q_i k_j) d_j,    S' = D_3 S + sum_j D_3/D_j k_j d_j
// so the products with S, and the sums over the warp, of four tokens are in flight together. Blocks
// lie on multiples of four tokens of the sequence; places of a block without a token change
// nothing.

constexpr int kHead = kDeltaHead, kBlock = 4, kScanWarps = kDeltaWarps, kChunkBlocks = 4;
constexpr int kChunk = kBlock * kChunkBlocks, kStages = 3;

/// What a block's scalars are, by place: one list per (block, value head). f_q and f_k are the L2
/// norms' factors, f_q with 1 / sqrt(dk); the scan works on raw q and k.
constexpr int kDecayQ = 0, kDecayK = 4;  // D_i f_q, D_i f_k
constexpr int kQk = 8, kKk = 24;  // D_i/D_j times the normed products: [i][j], and the pairs j < i
constexpr int kRest = 32, kBeta = 36;  // D_3/D_i f_k; beta_i, 0 where there is no token
constexpr int kScalars = 40;
/// Room for the blocks of 16384 rows of up to 1024 sequences.
constexpr int64_t kMaxScalarBlocks = 16384 / kBlock + 2 * 1024;

/// Blocks of sequence s begin here in the list of all blocks; enough for any alignment.
__device__ __forceinline__ int first_block(const Sequence& s, int sequence) {
  return s.first_row / kBlock + 2 * sequence;
}
/// Token of the first place of a sequence's first block: blocks lie on multiples of four tokens.
__device__ __forceinline__ int first_place(const Sequence& s) {
  return -((s.kv_len - s.q_len) % kBlock);
}

__device__ __forceinline__ float dot4(float4 a, float4 b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}

/// Halves the values of a lane: it keeps those of its half of the lanes and adds the partner's.
template <int kHalf>
__device__ __forceinline__ void exchange_halves(float (&x)[32]) {
  const bool upper = threadIdx.x & kHalf;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float keep = upper ? x[i + kHalf] : x[i], give = upper ? x[i] : x[i + kHalf];
    x[i] = keep + __shfl_xor_sync(~0u, give, kHalf);
  }
}

/// 32 sums over the 32 lanes: lane l gets the sum of value l.
__device__ __forceinline__ float sum_by_lane(float (&x)[32]) {
  exchange_halves<16>(x);
  exchange_halves<8>(x);
  exchange_halves<4>(x);
  exchange_halves<2>(x);
  exchange_halves<1>(x);
  return x[0];
}

/// A warp per (block, key head): the scalars of the block for its value heads.
__global__ void __launch_bounds__(256) delta_scalars_kernel(GatedDeltaArgs args) {
  const int lane = threadIdx.x % 32, key_head = blockIdx.y * 8 + threadIdx.x / 32;
  const int index = blockIdx.x;
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
  float4 q[kBlock], k[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    q[i] = k[i] = make_float4(0, 0, 0, 0);
    if (first + i < 0 || first + i >= s.q_len) continue;
    const float* x = args.qkv + (s.first_row + first + i) * width + key_head * kHead + lane * 4;
    q[i] = *reinterpret_cast<const float4*>(x);
    k[i] = *reinterpret_cast<const float4*>(x + keys);
  }
  // 0..3 q_i q_i, 4..7 k_i k_i, 8 + 4 i + j: q_i k_j, 24..29: k_i k_j of the six pairs j < i.
  float products[32];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    products[i] = dot4(q[i], q[i]);
    products[4 + i] = dot4(k[i], k[i]);
#pragma unroll
    for (int j = 0; j < kBlock; ++j) {
      products[kQk + 4 * i + j] = dot4(q[i], k[j]);
      if (j < i) products[kKk + i * (i - 1) / 2 + j] = dot4(k[i], k[j]);
    }
  }
  products[30] = products[31] = 0;
  const float sum = sum_by_lane(products);
  const float factor = rsqrtf(sum + 1e-6f) * (lane < 4 ? kQueryScale : 1.0f);  // lanes 0..7
  // The lane's pair of tokens.
  int i = lane % 4, j = i;
  const bool is_qk = lane >= kQk && lane < kKk, is_kk = lane >= kKk && lane < kKk + 6;
  if (is_qk) i = (lane - kQk) / 4, j = (lane - kQk) % 4;
  if (is_kk) {
    const int pair = lane - kKk;
    i = pair < 1 ? 1 : pair < 3 ? 2 : 3;
    j = pair - i * (i - 1) / 2;
  }
  const float q_factor = __shfl_sync(~0u, factor, i), k_factor = __shfl_sync(~0u, factor, 4 + i);
  const float other_factor = __shfl_sync(~0u, factor, 4 + j);
  const int group = args.num_value_heads / args.num_key_heads;
  for (int h = 0; h < group; ++h) {
    const int head = key_head * group + h, token = first + lane % 4;
    const bool exists = token >= 0 && token < s.q_len;
    const int64_t at = int64_t(s.first_row + token) * args.num_value_heads + head;
    const float g = exists ? args.g[at] : 0.0f, beta = exists ? args.beta[at] : 0.0f;
    float total = 0;  // log D of token lane % 4
#pragma unroll
    for (int t = 0; t < kBlock; ++t) {
      const float other = __shfl_sync(~0u, g, t);
      if (t <= lane % 4) total += other;
    }
    const float total_i = __shfl_sync(~0u, total, i), total_j = __shfl_sync(~0u, total, j);
    const float last = __shfl_sync(~0u, total, kBlock - 1);
    float value = 0;
    if (lane < 4) value = expf(total_i) * q_factor;
    if (lane >= 4 && lane < 8) value = expf(total_i) * k_factor;
    if (is_qk && j <= i) value = sum * q_factor * other_factor * expf(total_i - total_j);
    if (is_kk) value = sum * k_factor * other_factor * expf(total_i - total_j);
    float* out = args.scalars + (int64_t(index) * args.num_value_heads + head) * kScalars;
    out[lane] = value;
    if (lane < 4) out[kRest + lane] = expf(last - total_i) * k_factor;
    if (lane >= 4 && lane < 8) out[kBeta + lane - 4] = beta;
  }
}

/// A chunk of tokens in shared memory.
struct ScanChunk {
  float k[kChunk][kHead], q[kChunk][kHead], v[kChunk][kDeltaColumnsPerBlock];
  float scalars[kChunkBlocks][kScalars];
};
struct ScanShared {
  ScanChunk chunks[kStages];
  float corrections[kScanWarps][kBlock][kDeltaColumnsPerWarp];
};

static_assert(sizeof(ScanShared) <= 99 << 10, "a block of sm_120 has no more");

/// 16 bytes to shared memory, zeros where there is nothing.
__device__ __forceinline__ void copy_or_zero(void* to, const void* from, bool exists) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(exists ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void load_chunk(const GatedDeltaArgs& args, const Sequence& s, int head,
                                           int sequence, int number, ScanChunk& chunk) {
  const int first = first_place(s) + number * kChunk;
  const int key_head = head / (args.num_value_heads / args.num_key_heads);
  const int64_t keys = int64_t(args.num_key_heads) * kHead;
  const int64_t width = 2 * keys + int64_t(args.num_value_heads) * kHead;
  const float* rows = args.qkv + s.first_row * width;
#pragma unroll
  for (int n = 0; n < kChunk * kHead / 4 / (kScanWarps * 32); ++n) {
    const int i = n * kScanWarps * 32 + threadIdx.x, t = i / (kHead / 4),
              piece = i % (kHead / 4) * 4;
    const int token = first + t;
    const bool exists = token >= 0 && token < s.q_len;
    const float* x = rows + (exists ? token : 0) * width + key_head * kHead + piece;
    copy_or_zero(&chunk.q[t][piece], x, exists);
    copy_or_zero(&chunk.k[t][piece], x + keys, exists);
  }
  {
    const int t = threadIdx.x / 8, piece = threadIdx.x % 8 * 4, token = first + t;
    const bool exists = token >= 0 && token < s.q_len;
    copy_or_zero(&chunk.v[t][piece],
                 rows + (exists ? token : 0) * width + 2 * keys + head * kHead +
                     blockIdx.x * kDeltaColumnsPerBlock + piece,
                 exists);
  }
  if (threadIdx.x < kChunkBlocks * kScalars / 4) {
    const int block = threadIdx.x / (kScalars / 4), piece = threadIdx.x % (kScalars / 4) * 4;
    const int index = first_block(s, sequence) + number * kChunkBlocks + block;
    const bool exists = first + block * kBlock < s.q_len;
    copy_or_zero(&chunk.scalars[block][piece],
                 args.scalars +
                     (int64_t(exists ? index : 0) * args.num_value_heads + head) * kScalars + piece,
                 exists);
  }
}

/// One block: advances the state. out[i] is token i's output in column delta_column(), valid in
/// lanes 16 to 31. corrections: this warp's scratch.
__device__ __forceinline__ void scan_block(const ScanChunk& chunk, int block, DeltaState& state,
                                           float (*corrections)[kDeltaColumnsPerWarp],
                                           float (&out)[kBlock]) {
  const int lane = threadIdx.x % 32, kg = lane >> 1, half = lane & 1, first = block * kBlock;
  const float* scalars = chunk.scalars[block];
  float k[kBlock][8];
  float sums[2][4][kBlock] = {};  // [k S or q S][column][token]
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    float q[8];
    const float* from_k = &chunk.k[first + i][kg * 8];
    const float* from_q = &chunk.q[first + i][kg * 8];
    *reinterpret_cast<float4*>(k[i]) = *reinterpret_cast<const float4*>(from_k);
    *reinterpret_cast<float4*>(k[i] + 4) = *reinterpret_cast<const float4*>(from_k + 4);
    *reinterpret_cast<float4*>(q) = *reinterpret_cast<const float4*>(from_q);
    *reinterpret_cast<float4*>(q + 4) = *reinterpret_cast<const float4*>(from_q + 4);
#pragma unroll
    for (int r = 0; r < 8; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sums[0][j][i] = fmaf(state.s[r][j], k[i][r], sums[0][j][i]);
        sums[1][j][i] = fmaf(state.s[r][j], q[r], sums[1][j][i]);
      }
    }
  }
  // Sums over the 16 key groups by exchanging halves: bit 4 picks k or q, bits 3 and 2 the column;
  // bit 1 adds up.
  const bool b4 = lane & 16, b3 = lane & 8, b2 = lane & 4;
  const float4 decay = *reinterpret_cast<const float4*>(scalars + (b4 ? kDecayQ : kDecayK));
  const float decays[kBlock] = {decay.x, decay.y, decay.z, decay.w};
  float four[4][kBlock], two[2][kBlock], x[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      four[j][i] = (b4 ? sums[1][j][i] : sums[0][j][i]) +
                   __shfl_xor_sync(~0u, b4 ? sums[0][j][i] : sums[1][j][i], 16);
    }
  }
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      two[j][i] = (b3 ? four[j + 2][i] : four[j][i]) +
                  __shfl_xor_sync(~0u, b3 ? four[j][i] : four[j + 2][i], 8);
    }
  }
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    x[i] = (b2 ? two[1][i] : two[0][i]) + __shfl_xor_sync(~0u, b2 ? two[0][i] : two[1][i], 4);
  }
#pragma unroll
  for (int i = 0; i < kBlock; ++i) x[i] = (x[i] + __shfl_xor_sync(~0u, x[i], 2)) * decays[i];
  const int column = delta_column(), in_warp = column % kDeltaColumnsPerWarp;
  // Every lane works the corrections out; those of lanes 0 to 15 are meant.
  const float4 beta = *reinterpret_cast<const float4*>(scalars + kBeta);
  const float betas[kBlock] = {beta.x, beta.y, beta.z, beta.w};
  float d[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    float read = x[i];
#pragma unroll
    for (int j = 0; j < i; ++j) read = fmaf(scalars[kKk + i * (i - 1) / 2 + j], d[j], read);
    d[i] = (chunk.v[first + i][column] - read) * betas[i];
    if (!b4) corrections[i][in_warp] = d[i];
  }
  __syncwarp();
  // D_3 over all: D_3/D_3 f_k is kRest + 3, D_3 f_k is kDecayK + 3.
  const float4 rest = *reinterpret_cast<const float4*>(scalars + kRest);
  const float rests[kBlock] = {rest.x, rest.y, rest.z, rest.w};
  const float all = scalars[kDecayK + 3] / rest.w;
#pragma unroll
  for (int r = 0; r < 8; ++r) {
#pragma unroll
    for (int j = 0; j < 4; ++j) state.s[r][j] *= all;
  }
  float mine[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    mine[i] = corrections[i][in_warp];
    const float4 c = *reinterpret_cast<const float4*>(&corrections[i][half * 4]);
    const float scaled[4] = {c.x * rests[i], c.y * rests[i], c.z * rests[i], c.w * rests[i]};
#pragma unroll
    for (int r = 0; r < 8; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j) state.s[r][j] = fmaf(k[i][r], scaled[j], state.s[r][j]);
    }
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    out[i] = x[i];
#pragma unroll
    for (int j = 0; j <= i; ++j) out[i] = fmaf(scalars[kQk + 4 * i + j], mine[j], out[i]);
  }
}

/// grid = (dv / 32, value heads, sequences).
__global__ void __launch_bounds__(kScanWarps * 32) delta_scan_kernel(GatedDeltaArgs args) {
  extern __shared__ __align__(16) uint8_t raw_shared[];
  ScanShared& shared = *reinterpret_cast<ScanShared*>(raw_shared);
  const int warp = threadIdx.x / 32, head = blockIdx.y, sequence = blockIdx.z;
  const Sequence s = args.step.sequence[sequence];
  const int64_t place = int64_t(head) * kHead * kHead + delta_place(blockIdx.x);
  auto slot = [&](int32_t n) { return args.state + n * args.state_stride + place; };
  const int start = s.kv_len - s.q_len, first_token = first_place(s);
  const int chunks = (s.q_len - first_token + kChunk - 1) / kChunk;
#pragma unroll
  for (int n = 0; n < kStages - 1; ++n) {
    if (n < chunks) load_chunk(args, s, head, sequence, n, shared.chunks[n]);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  DeltaState state = {};
  if (s.read_slot >= 0) state.load(slot(s.read_slot));
  const bool writes = delta_writes();
  float* core = args.core + (int64_t(s.first_row) * args.num_value_heads + head) * kHead +
                blockIdx.x * kDeltaColumnsPerBlock + delta_column();
  const int64_t core_stride = int64_t(args.num_value_heads) * kHead;
  for (int n = 0; n < chunks; ++n) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // chunk n is there for all, and all are done with chunk n - 1
    const int ahead = n + kStages - 1;
    if (ahead < chunks) {
      load_chunk(args, s, head, sequence, ahead, shared.chunks[ahead % kStages]);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    const ScanChunk& chunk = shared.chunks[n % kStages];
    const int first = first_token + n * kChunk;
#pragma unroll 1
    for (int block = 0; block < kChunkBlocks && first + block * kBlock < s.q_len; ++block) {
      float out[kBlock];
      scan_block(chunk, block, state, shared.corrections[warp], out);
#pragma unroll
      for (int i = 0; i < kBlock; ++i) {
        const int token = first + block * kBlock + i;
        if (writes && token >= 0 && token < s.q_len) core[token * core_stride] = out[i];
      }
      const int reached = start + first + (block + 1) * kBlock;
      if (args.step.saves > 0 && reached % 64 == 0) {
        for (int i = 0; i < args.step.saves; ++i) {
          const StateSave save = args.step.save[i];
          if (save.sequence == sequence && save.num_tokens == reached) state.store(slot(save.slot));
        }
      }
    }
  }
  state.store(slot(s.write_slot));
}

}  // namespace

size_t delta_scratch_floats(int64_t max_rows, int32_t num_value_heads) {
  const int64_t blocks = max_rows / kBlock + 2 * max_rows;
  return static_cast<size_t>(blocks < kMaxScalarBlocks ? blocks : kMaxScalarBlocks) *
         static_cast<size_t>(num_value_heads) * kScalars;
}

void gated_delta(const GatedDeltaArgs& args, Stream stream) {
  if (args.key_head_dim == kHead && args.value_head_dim == kHead) {
    const dim3 grid(kHead / kDeltaColumnsPerBlock, unsigned(args.num_value_heads),
                    unsigned(args.step.sequences));
    const dim3 blocks(unsigned(args.step.rows / kBlock + 2 * args.step.sequences),
                      ceil_div(args.num_key_heads, 8));
    launch("delta_scalars", delta_scalars_kernel, blocks, 256, 0, stream, false, args);
    allow_shared(delta_scan_kernel, sizeof(ScanShared));
    launch("delta_scan", delta_scan_kernel, grid, kScanWarps * 32, sizeof(ScanShared), stream,
           false, args);
    return;
  }
  const dim3 grid(unsigned(args.num_value_heads), unsigned(args.step.sequences));
  const size_t bytes =
      sizeof(float) * size_t(args.key_head_dim) * (size_t(args.value_head_dim) + 2);
  allow_shared(delta_generic_kernel, bytes);
  launch("delta_generic", delta_generic_kernel, grid, 128, bytes, stream, false, args);
}

}  // namespace nibble::cuda
