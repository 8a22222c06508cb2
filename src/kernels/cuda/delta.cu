// Gated DeltaNet: the short convolution with its window, and the delta rule as a scan over tokens.
//
// One scan serves decode, verify and prefill rows: the state of (head, 8 value columns) stays in one
// warp's registers while tokens go by, so the bits do not depend on where a prompt is cut (at multiples of
// four).
// Legend: dk, dv key and value head size; the state is [dk][dv] f32.
#include "kernels/cuda/delta_step.cuh"

namespace nibble::cuda {
namespace {

constexpr int kMaxColumns = 16, kMaxKernel = 4;

// ---------------------------------------------------------------- convolution

constexpr int kConvRows = 16;

/// Thread = one channel of up to 16 rows, which it walks with the last columns in registers; taps in rising
/// order, oldest column first.
template <typename T>
__global__ void __launch_bounds__(256) conv_kernel(ShortConvArgs args) {
  const int64_t channel = blockIdx.x * int64_t{256} + threadIdx.x;
  if (channel >= args.channels) return;
  const T* x = static_cast<const T*>(args.x) + channel;
  const int first = blockIdx.y * kConvRows, last = min(args.step.rows, first + kConvRows);
  float taps[kMaxKernel], past[kMaxKernel];  // past[j]: column t - kernel + 1 + j, the newest last
#pragma unroll
  for (int j = 0; j < kMaxKernel; ++j) {
    const int from = j - (kMaxKernel - args.kernel);
    taps[j] = from < 0 ? 0.0f : args.weight[channel * args.kernel + from];
    past[j] = 0;
  }
  int sequence = -1;
  for (int row = first; row < last; ++row) {
    if (args.step.row_sequence[row] != sequence) {  // the history of the first row here
      sequence = args.step.row_sequence[row];
      const Sequence s = args.step.sequence[sequence];
      const T* window = s.read_slot < 0
                            ? nullptr
                            : reinterpret_cast<const T*>(static_cast<const char*>(args.window) +
                                                         s.read_slot * args.window_stride_bytes) +
                                  channel;
#pragma unroll
      for (int j = 1; j < kMaxKernel; ++j) {
        const int t = row - s.first_row - kMaxKernel + j;
        past[j] = 0;
        if (j < kMaxKernel - args.kernel + 1) continue;
        if (t >= 0) {
          past[j] = to_float(x[int64_t(s.first_row + t) * args.channels]);
        } else if (window != nullptr) {
          past[j] = to_float(window[int64_t(args.columns + t) * args.channels]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j + 1 < kMaxKernel; ++j) past[j] = past[j + 1];
    past[kMaxKernel - 1] = to_float(x[int64_t(row) * args.channels]);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kMaxKernel; ++j) sum = fmaf(past[j], taps[j], sum);
    args.out[int64_t(row) * args.channels + channel] = silu(sum);
  }
}

/// Thread = one channel of one sequence: the saves of the step, then the new window. Runs after
/// conv_kernel, because the read slot may be the write slot.
template <typename T>
__global__ void conv_window_kernel(ShortConvArgs args) {
  const int64_t channel = blockIdx.x * int64_t{256} + threadIdx.x;
  if (channel >= args.channels) return;
  const int sequence = blockIdx.y;
  const Sequence s = args.step.sequence[sequence];
  const T* x = static_cast<const T*>(args.x) + channel;
  auto slot = [&](int32_t number) {
    return reinterpret_cast<T*>(static_cast<char*>(args.window) +
                                number * args.window_stride_bytes) +
           channel;
  };
  T old[kMaxColumns];
  for (int c = 0; c < args.columns; ++c) {
    old[c] = s.read_slot < 0 ? T(0.0f) : slot(s.read_slot)[c * args.channels];
  }
  auto write = [&](T* to, int tokens) {
    for (int c = 0; c < args.columns; ++c) {
      const int t = tokens - args.columns + c;
      to[c * args.channels] =
          t >= 0 ? x[int64_t(s.first_row + t) * args.channels] : old[args.columns + t];
    }
  };
  const int start = s.kv_len - s.q_len;
  for (int i = 0; i < args.step.saves; ++i) {
    const StateSave save = args.step.save[i];
    if (save.sequence == sequence) write(slot(save.slot), save.num_tokens - start);
  }
  write(slot(s.write_slot), s.q_len);
}

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
  auto slot = [&](int32_t n) { return args.state + n * args.state_stride + int64_t(head) * dk * dv; };
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
        for (int j = threadIdx.x; j < dv; j += blockDim.x) slot(save.slot)[i * dv + j] = state[i * dv + j];
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < dk * dv; i += blockDim.x) slot(s.write_slot)[i] = state[i];
}

// ---------------------------------------------------------------- delta rule, 128 x 128
//
// Four tokens at a time, exactly: with D_i the decay up to token i of the block and S the state before it,
//   d_i = beta_i (v_i - D_i (k_i S) - sum_{j<i} D_i/D_j (k_i k_j) d_j)
//   o_i = D_i (q_i S) + sum_{j<=i} D_i/D_j (q_i k_j) d_j,    S' = D_3 S + sum_j D_3/D_j k_j d_j
// so the products with S, and the sums over the warp, of four tokens are in flight together. Blocks lie on
// multiples of four tokens of the sequence; places of a block without a token change nothing.

constexpr int kHead = kDeltaHead, kBlock = 4, kScanWarps = kDeltaWarps, kChunk = kBlock * kScanWarps;

/// A chunk of tokens as the scan reads it: k and q normed, q scaled by 1 / sqrt(dk).
struct ScanChunk {
  float k[kChunk][kHead], q[kChunk][kHead], v[kChunk][kDeltaColumnsPerBlock];
  float kk[kScanWarps][kBlock][kBlock], qk[kScanWarps][kBlock][kBlock];  // times D_i / D_j
  float decay[kChunk], rest[kChunk], beta[kChunk];  // D_i, D_3 / D_i
};

/// One warp's block of the next chunk on its way from global memory; zeros where there is no token.
struct ScanLoads {
  float4 q[kBlock], k[kBlock];
  float v[kBlock], g[kBlock], beta[kBlock];
};

__device__ __forceinline__ float dot4(float4 a, float4 b) {
  return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
}
__device__ __forceinline__ float4 times(float4 x, float f) {
  return make_float4(x.x * f, x.y * f, x.z * f, x.w * f);
}

__device__ __forceinline__ void scan_load(const GatedDeltaArgs& args, const Sequence& s, int head,
                                          int first_token, ScanLoads& loads) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int key_head = head / (args.num_value_heads / args.num_key_heads);
  const int64_t keys = int64_t(args.num_key_heads) * kHead;
  const int64_t width = 2 * keys + int64_t(args.num_value_heads) * kHead;
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    const int token = first_token + warp * kBlock + i;
    loads.q[i] = loads.k[i] = make_float4(0, 0, 0, 0);
    loads.v[i] = loads.g[i] = loads.beta[i] = 0;
    if (token < 0 || token >= s.q_len) continue;
    const int64_t row = s.first_row + token;
    const float* x = args.qkv + row * width;
    loads.q[i] = *reinterpret_cast<const float4*>(x + key_head * kHead + lane * 4);
    loads.k[i] = *reinterpret_cast<const float4*>(x + keys + key_head * kHead + lane * 4);
    loads.v[i] = x[2 * keys + head * kHead + blockIdx.x * kDeltaColumnsPerBlock + lane];
    loads.g[i] = args.g[row * args.num_value_heads + head];
    loads.beta[i] = args.beta[row * args.num_value_heads + head];
  }
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

__device__ __forceinline__ void scan_prepare(const ScanLoads& loads, ScanChunk& chunk) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // Values: 0..3 q_i q_i, 4..7 k_i k_i, 8 + 4 i + j: q_i k_j, 24..29: k_i k_j of the six pairs j < i.
  float products[32];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    products[i] = dot4(loads.q[i], loads.q[i]);
    products[4 + i] = dot4(loads.k[i], loads.k[i]);
#pragma unroll
    for (int j = 0; j < kBlock; ++j) {
      products[8 + 4 * i + j] = dot4(loads.q[i], loads.k[j]);
      if (j < i) products[24 + i * (i - 1) / 2 + j] = dot4(loads.k[i], loads.k[j]);
    }
  }
  products[30] = products[31] = 0;
  const float sum = sum_by_lane(products);
  const float factor = rsqrtf(sum + 1e-6f) * (lane < 4 ? kQueryScale : 1.0f);  // lanes 0..7
  float q_factor[kBlock], k_factor[kBlock], total[kBlock];
  float running = 0;
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    q_factor[i] = __shfl_sync(~0u, factor, i);
    k_factor[i] = __shfl_sync(~0u, factor, 4 + i);
    running += loads.g[i];
    total[i] = running;  // log D_i
    const int t = warp * kBlock + i;
    *reinterpret_cast<float4*>(&chunk.q[t][lane * 4]) = times(loads.q[i], q_factor[i]);
    *reinterpret_cast<float4*>(&chunk.k[t][lane * 4]) = times(loads.k[i], k_factor[i]);
    chunk.v[t][lane] = loads.v[i];
  }
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    if (lane == i) {
      chunk.decay[warp * kBlock + i] = expf(total[i]);
      chunk.rest[warp * kBlock + i] = expf(total[kBlock - 1] - total[i]);
      chunk.beta[warp * kBlock + i] = loads.beta[i];
    }
#pragma unroll
    for (int j = 0; j <= i; ++j) {
      if (lane == 8 + 4 * i + j) {
        chunk.qk[warp][i][j] = sum * q_factor[i] * k_factor[j] * expf(total[i] - total[j]);
      }
      if (j < i && lane == 24 + i * (i - 1) / 2 + j) {
        chunk.kk[warp][i][j] = sum * k_factor[i] * k_factor[j] * expf(total[i] - total[j]);
      }
    }
  }
}

/// One block: advances the state. out[i] is token i's output in column delta_column(), valid in lanes 16
/// to 31. corrections: this warp's scratch.
__device__ __forceinline__ void scan_block(const ScanChunk& chunk, int block, DeltaState& state,
                                           float (*corrections)[kDeltaColumnsPerWarp],
                                           float (&out)[kBlock]) {
  const int lane = threadIdx.x % 32, kg = lane >> 1, half = lane & 1, first = block * kBlock;
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
  // Sums over the 16 key groups by exchanging halves: bit 4 picks k or q, bits 3 and 2 the column; bit 1
  // adds up.
  const bool b4 = lane & 16, b3 = lane & 8, b2 = lane & 4;
  float four[4][kBlock], two[2][kBlock], x[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      four[j][i] = (b4 ? sums[1][j][i] : sums[0][j][i]) +
                   __shfl_xor_sync(~0u, b4 ? sums[0][j][i] : sums[1][j][i], 16);
    }
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      two[j][i] = (b3 ? four[j + 2][i] : four[j][i]) +
                  __shfl_xor_sync(~0u, b3 ? four[j][i] : four[j + 2][i], 8);
    }
    x[i] = (b2 ? two[1][i] : two[0][i]) + __shfl_xor_sync(~0u, b2 ? two[0][i] : two[1][i], 4);
    x[i] += __shfl_xor_sync(~0u, x[i], 2);
    x[i] *= chunk.decay[first + i];
  }
  const int column = delta_column(), in_warp = column % kDeltaColumnsPerWarp;
  if (!b4) {
    float d[kBlock];
#pragma unroll
    for (int i = 0; i < kBlock; ++i) {
      float read = x[i];
#pragma unroll
      for (int j = 0; j < i; ++j) read = fmaf(chunk.kk[block][i][j], d[j], read);
      d[i] = (chunk.v[first + i][column] - read) * chunk.beta[first + i];
      corrections[i][in_warp] = d[i];
    }
  }
  __syncwarp();
  const float all = chunk.decay[first + kBlock - 1];
#pragma unroll
  for (int r = 0; r < 8; ++r) {
#pragma unroll
    for (int j = 0; j < 4; ++j) state.s[r][j] *= all;
  }
  float mine[kBlock];
#pragma unroll
  for (int i = 0; i < kBlock; ++i) {
    mine[i] = corrections[i][in_warp];
    const float4 d = *reinterpret_cast<const float4*>(&corrections[i][half * 4]);
    const float rest = chunk.rest[first + i];
    const float scaled[4] = {d.x * rest, d.y * rest, d.z * rest, d.w * rest};
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
    for (int j = 0; j <= i; ++j) out[i] = fmaf(chunk.qk[block][i][j], mine[j], out[i]);
  }
}

/// grid = (dv / 32, value heads, sequences).
__global__ void __launch_bounds__(kScanWarps * 32) delta_scan_kernel(GatedDeltaArgs args) {
  __shared__ __align__(16) ScanChunk chunks[2];
  __shared__ __align__(16) float corrections[kScanWarps][kBlock][kDeltaColumnsPerWarp];
  const int warp = threadIdx.x / 32, head = blockIdx.y;
  const Sequence s = args.step.sequence[blockIdx.z];
  const int64_t place = int64_t(head) * kHead * kHead + delta_place(blockIdx.x);
  auto slot = [&](int32_t n) { return args.state + n * args.state_stride + place; };
  const int start = s.kv_len - s.q_len;
  ScanLoads loads;
  scan_load(args, s, head, -(start % kBlock), loads);
  DeltaState state = {};
  if (s.read_slot >= 0) state.load(slot(s.read_slot));
  const bool writes = delta_writes();
  float* core = args.core + (int64_t(s.first_row) * args.num_value_heads + head) * kHead +
                blockIdx.x * kDeltaColumnsPerBlock + delta_column();
  const int64_t core_stride = int64_t(args.num_value_heads) * kHead;
  scan_prepare(loads, chunks[0]);
  __syncthreads();
  for (int first = -(start % kBlock), n = 0; first < s.q_len; first += kChunk, ++n) {
    const bool more = first + kChunk < s.q_len;
    if (more) scan_load(args, s, head, first + kChunk, loads);
#pragma unroll 1
    for (int block = 0; block < kScanWarps && first + block * kBlock < s.q_len; ++block) {
      float out[kBlock];
      scan_block(chunks[n & 1], block, state, corrections[warp], out);
#pragma unroll
      for (int i = 0; i < kBlock; ++i) {
        const int token = first + block * kBlock + i;
        if (writes && token >= 0 && token < s.q_len) core[token * core_stride] = out[i];
      }
      const int reached = start + first + (block + 1) * kBlock;
      if (args.step.saves > 0 && reached % 64 == 0) {
        for (int i = 0; i < args.step.saves; ++i) {
          const StateSave save = args.step.save[i];
          if (save.sequence == int(blockIdx.z) && save.num_tokens == reached) {
            state.store(slot(save.slot));
          }
        }
      }
    }
    if (more) {
      scan_prepare(loads, chunks[(n + 1) & 1]);
      __syncthreads();
    }
  }
  state.store(slot(s.write_slot));
}

}  // namespace

void short_conv(const ShortConvArgs& args, Stream stream) {
  const unsigned blocks = ceil_div(args.channels, 256);
  const dim3 rows(blocks, ceil_div(args.step.rows, kConvRows));
  const dim3 sequences(blocks, unsigned(args.step.sequences));
  const bool is_bf16 = args.type == Element::bf16;
  launch("short_conv", is_bf16 ? conv_kernel<bf16> : conv_kernel<float>, rows, 256, 0, stream, false,
         args);
  launch("conv_window", is_bf16 ? conv_window_kernel<bf16> : conv_window_kernel<float>, sequences,
         256, 0, stream, false, args);
}

void gated_delta(const GatedDeltaArgs& args, Stream stream) {
  if (args.key_head_dim == kHead && args.value_head_dim == kHead) {
    const dim3 grid(kHead / kDeltaColumnsPerBlock, unsigned(args.num_value_heads),
                    unsigned(args.step.sequences));
    launch("delta_scan", delta_scan_kernel, grid, kScanWarps * 32, 0, stream, false, args);
    return;
  }
  const dim3 grid(unsigned(args.num_value_heads), unsigned(args.step.sequences));
  const size_t bytes =
      sizeof(float) * size_t(args.key_head_dim) * (size_t(args.value_head_dim) + 2);
  allow_shared(delta_generic_kernel, bytes);
  launch("delta_generic", delta_generic_kernel, grid, 128, bytes, stream, false, args);
}

}  // namespace nibble::cuda
