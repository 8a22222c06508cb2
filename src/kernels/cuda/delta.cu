// Gated DeltaNet: the short convolution with its window, and the delta rule as a scan over tokens.
//
// One scan serves decode, verify and prefill rows: the state of (head, 8 value columns) stays in one
// warp's registers while tokens go by, so the bits do not depend on how a prompt is cut into steps.
// Legend: dk, dv key and value head size; the state is [dk][dv] f32.
#include "kernels/cuda/delta_step.cuh"

namespace nibble::cuda {
namespace {

constexpr int kMaxColumns = 16;

// ---------------------------------------------------------------- convolution

/// Thread = one channel of one row; taps in rising order, oldest column first.
template <typename T>
__global__ void conv_kernel(ShortConvArgs args) {
  const int64_t channel = blockIdx.x * int64_t{256} + threadIdx.x;
  const int row = blockIdx.y;
  if (channel >= args.channels) return;
  const Sequence s = args.step.sequence[args.step.row_sequence[row]];
  const T* x = static_cast<const T*>(args.x) + channel;
  const T* window = s.read_slot < 0
                        ? nullptr
                        : reinterpret_cast<const T*>(static_cast<const char*>(args.window) +
                                                     s.read_slot * args.window_stride_bytes) +
                              channel;
  const int local = row - s.first_row;
  float sum = 0;
  for (int j = 0; j < args.kernel; ++j) {
    const int t = local - args.kernel + 1 + j;
    float value = 0;
    if (t >= 0) {
      value = to_float(x[int64_t(s.first_row + t) * args.channels]);
    } else if (window != nullptr) {
      value = to_float(window[int64_t(args.columns + t) * args.channels]);
    }
    sum = fmaf(value, args.weight[channel * args.kernel + j], sum);
  }
  args.out[int64_t(row) * args.channels + channel] = silu(sum);
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

constexpr int kHead = kDeltaHead, kChunk = 16, kScanWarps = kDeltaWarps;
constexpr int kTokensPerWarp = kChunk / kScanWarps;

/// A chunk of tokens as the scan reads it: k and q normed, q scaled by 1 / sqrt(dk).
struct ScanChunk {
  float k[kChunk][kHead], q[kChunk][kHead], v[kChunk][kDeltaColumnsPerBlock];
  float decay[kChunk], beta[kChunk], kq[kChunk];
};

/// One warp's tokens of the next chunk on their way from global memory.
struct ScanLoads {
  float4 q[kTokensPerWarp], k[kTokensPerWarp];
  float v[kTokensPerWarp], g[kTokensPerWarp], beta[kTokensPerWarp];
};

__device__ __forceinline__ float square_sum(float4 x) {
  return x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
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
  for (int i = 0; i < kTokensPerWarp; ++i) {
    const int token = first_token + warp * kTokensPerWarp + i;
    if (token >= s.q_len) break;
    const int64_t row = s.first_row + token;
    const float* x = args.qkv + row * width;
    loads.q[i] = *reinterpret_cast<const float4*>(x + key_head * kHead + lane * 4);
    loads.k[i] = *reinterpret_cast<const float4*>(x + keys + key_head * kHead + lane * 4);
    loads.v[i] = x[2 * keys + head * kHead + blockIdx.x * kDeltaColumnsPerBlock + lane];
    loads.g[i] = args.g[row * args.num_value_heads + head];
    loads.beta[i] = args.beta[row * args.num_value_heads + head];
  }
}

__device__ __forceinline__ void scan_prepare(const ScanLoads& loads, int tokens, ScanChunk& chunk) {
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < kTokensPerWarp; ++i) {
    const int t = warp * kTokensPerWarp + i;
    if (t >= tokens) break;
    const float q_factor = rsqrtf(warp_sum(square_sum(loads.q[i])) + 1e-6f) * kQueryScale;
    const float k_factor = rsqrtf(warp_sum(square_sum(loads.k[i])) + 1e-6f);
    const float4 q = times(loads.q[i], q_factor), k = times(loads.k[i], k_factor);
    const float kq = warp_sum(q.x * k.x + q.y * k.y + q.z * k.z + q.w * k.w);
    *reinterpret_cast<float4*>(&chunk.q[t][lane * 4]) = q;
    *reinterpret_cast<float4*>(&chunk.k[t][lane * 4]) = k;
    chunk.v[t][lane] = loads.v[i];
    if (lane == 0) {
      chunk.decay[t] = expf(loads.g[i]);
      chunk.beta[t] = loads.beta[i];
      chunk.kq[t] = kq;
    }
  }
}

/// grid = (dv / 32, value heads, sequences).
__global__ void __launch_bounds__(kScanWarps * 32) delta_scan_kernel(GatedDeltaArgs args) {
  __shared__ ScanChunk chunks[2];
  const int head = blockIdx.y;
  grid_wait();
  grid_release();
  const Sequence s = args.step.sequence[blockIdx.z];
  const int64_t place = int64_t(head) * kHead * kHead + delta_place(blockIdx.x);
  auto slot = [&](int32_t n) { return args.state + n * args.state_stride + place; };
  ScanLoads loads;
  scan_load(args, s, head, 0, loads);
  DeltaState state = {};
  if (s.read_slot >= 0) state.load(slot(s.read_slot));
  const int column = delta_column();
  const bool writes = delta_writes();
  float* core = args.core + (int64_t(s.first_row) * args.num_value_heads + head) * kHead +
                blockIdx.x * kDeltaColumnsPerBlock + column;
  const int64_t core_stride = int64_t(args.num_value_heads) * kHead;
  const int start = s.kv_len - s.q_len;
  scan_prepare(loads, min(kChunk, s.q_len), chunks[0]);
  __syncthreads();
  for (int first = 0, n = 0; first < s.q_len; first += kChunk, ++n) {
    const int tokens = min(kChunk, s.q_len - first);
    const bool more = first + kChunk < s.q_len;
    if (more) scan_load(args, s, head, first + kChunk, loads);
    const ScanChunk& chunk = chunks[n & 1];
#pragma unroll 1
    for (int t = 0; t < tokens; ++t) {
      const float out = delta_step({chunk.k[t], chunk.q[t], chunk.v[t][column], chunk.decay[t],
                                    chunk.beta[t], chunk.kq[t]},
                                   state);
      if (writes) core[(first + t) * core_stride] = out;
      const int reached = start + first + t + 1;
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
      scan_prepare(loads, min(kChunk, s.q_len - first - kChunk), chunks[(n + 1) & 1]);
      __syncthreads();
    }
  }
  state.store(slot(s.write_slot));
}

}  // namespace

void short_conv(const ShortConvArgs& args, Stream stream) {
  const unsigned blocks = ceil_div(args.channels, 256);
  const dim3 rows(blocks, unsigned(args.step.rows)), sequences(blocks, unsigned(args.step.sequences));
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
