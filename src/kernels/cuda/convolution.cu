// The short convolution of DeltaNet layers, any channels, and its window of last columns.
#include "kernels/cuda/common.cuh"

namespace nibble::cuda {
namespace {

constexpr int kMaxColumns = 16, kMaxKernel = 4;
constexpr int kConvRows = 16;

/// Thread = one channel of up to 16 rows, which it walks with the last columns in registers; taps
/// in rising order, oldest column first.
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

}  // namespace

void short_conv(const ShortConvArgs& args, Stream stream) {
  const dim3 grid(ceil_div(args.channels, 256), ceil_div(args.step.rows, kConvRows));
  launch("short_conv", args.type == Element::bf16 ? conv_kernel<bf16> : conv_kernel<float>, grid,
         256, 0, stream, false, args);
  conv_window(args, stream);
}

void conv_window(const ShortConvArgs& args, Stream stream) {
  const dim3 grid(ceil_div(args.channels, 256), unsigned(args.step.sequences));
  launch("conv_window",
         args.type == Element::bf16 ? conv_window_kernel<bf16> : conv_window_kernel<float>, grid,
         256, 0, stream, false, args);
}

}  // namespace nibble::cuda
