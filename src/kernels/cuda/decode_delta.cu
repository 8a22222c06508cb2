// The DeltaNet mixer of a decode step in one kernel: convolution, SiLU, L2 norm, gates, delta rule,
// and the gated norm up to its mean square.
//
// CTA = (32 value columns, value head, sequence). The state and everything that does not depend on
// this step's projection is read before grid_wait(). The window is only read here: value heads
// share key channels, so it moves on in the next kernel.
#include "kernels/cuda/decode.h"
#include "kernels/cuda/delta_step.cuh"

namespace nibble::cuda {
namespace {

constexpr int kThreads = kDeltaWarps * 32, kKeys = 2048, kValueHeads = 32, kChannels = 8192;
constexpr int kZ = kChannels, kB = kZ + kMixer, kA = kB + kValueHeads;
constexpr size_t kPadDelta = 50 << 10;

/// Taps and past columns of one channel.
struct Channel {
  float4 taps;
  float past[3];

  __device__ __forceinline__ void load(const DeltaDecodeArgs& args, const Sequence& s,
                                       int channel) {
    taps = reinterpret_cast<const float4*>(args.conv)[channel];
    const bf16* window = reinterpret_cast<const bf16*>(static_cast<const char*>(args.window) +
                                                       s.read_slot * args.window_stride_bytes);
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      past[i] = s.read_slot < 0 ? 0.0f : to_float(window[i * kChannels + channel]);
    }
  }
  __device__ __forceinline__ float convolve(float newest) const {
    const float sum =
        fmaf(newest, taps.w, fmaf(past[2], taps.z, fmaf(past[1], taps.y, past[0] * taps.x)));
    return silu(sum);
  }
};

/// kCtas: of a multiprocessor. Eight take 16 bytes of stack, four are enough for few sequences.
template <int kCtas>
__global__ void __launch_bounds__(kThreads, kCtas) delta_kernel(DeltaDecodeArgs args) {
  __shared__ __align__(16) float q[kDeltaHead], k[kDeltaHead];
  __shared__ float v[kDeltaColumnsPerBlock], o[kDeltaColumnsPerBlock];
  __shared__ float sums[3][kDeltaWarps];
  const int quarter = blockIdx.x, head = blockIdx.y, tid = threadIdx.x, row = blockIdx.z;
  grid_release();
  const Sequence s = args.step.sequence[row];
  const int64_t place = int64_t(head) * kDeltaHead * kDeltaHead + delta_place(quarter);
  DeltaState state = {};
  if (s.read_slot >= 0) state.load(args.state + s.read_slot * args.state_stride + place);
  const int q_channel = head / 2 * kDeltaHead + tid, k_channel = kKeys + q_channel;
  const int column = head * kDeltaHead + quarter * kDeltaColumnsPerBlock + tid % 32;
  Channel q_in, k_in, v_in;
  q_in.load(args, s, q_channel);
  k_in.load(args, s, k_channel);
  v_in.load(args, s, 2 * kKeys + column);
  const float rate = -expf(args.a_log[head]), bias = args.dt_bias[head];
  const float norm_weight = args.norm_weight[quarter * kDeltaColumnsPerBlock + tid % 32];
  grid_wait();

  const float* projection = args.projection + row * args.projection_stride;
  const float yq = q_in.convolve(round_bf16(projection[q_channel]));
  const float yk = k_in.convolve(round_bf16(projection[k_channel]));
  const float z = projection[kZ + column];
  const float beta = sigmoid(projection[kB + head]);
  const float decay = expf(rate * softplus(projection[kA + head] + bias));
  if (tid < 32) v[tid] = v_in.convolve(round_bf16(projection[2 * kKeys + column]));
  const float qq = warp_sum(yq * yq), kk = warp_sum(yk * yk), qk = warp_sum(yq * yk);
  if (tid % 32 == 0) {
    sums[0][tid / 32] = qq;
    sums[1][tid / 32] = kk;
    sums[2][tid / 32] = qk;
  }
  __syncthreads();
  float total[3];
#pragma unroll
  for (int i = 0; i < 3; ++i) total[i] = (sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]);
  const float q_factor = rsqrtf(total[0] + 1e-6f) * kQueryScale,
              k_factor = rsqrtf(total[1] + 1e-6f);
  q[tid] = yq * q_factor;
  k[tid] = yk * k_factor;
  __syncthreads();
  const float out =
      delta_step({k, q, v[delta_column()], decay, beta, total[2] * q_factor * k_factor}, state);
  if (delta_writes()) o[delta_column()] = out;
  __syncthreads();
  state.store(args.state + s.write_slot * args.state_stride + place);
  if (tid < 32) {
    const float square = warp_sum(o[tid] * o[tid]);
    if (tid == 0) args.squares[(row * kValueHeads + head) * 4 + quarter] = square;
    args.gated[int64_t(row) * kMixer + column] = o[tid] * norm_weight * silu(z);
  }
}

}  // namespace

void prepare_decode_delta() {
  allow_shared(delta_kernel<4>, kPadDelta);
  for (auto* kernel : {delta_kernel<4>, delta_kernel<8>}) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, 100);
  }
}

void decode_delta(const DeltaDecodeArgs& args, Stream stream) {
  const int sequences = args.step.sequences;
  const dim3 grid(kDeltaHead / kDeltaColumnsPerBlock, kValueHeads, unsigned(sequences));
  // More CTAs than stand at once with four: the late ones would read their state late.
  auto* kernel = sequences <= 4 ? delta_kernel<4> : delta_kernel<8>;
  launch("decode_delta", kernel, grid, kThreads, sequences == 1 ? kPadDelta : 0, stream, true,
         args);
}

}  // namespace nibble::cuda
