// Greedy sampling in two steps: 64 parts of a row, then their merge.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/greedy.h"

namespace nibble::cuda {
namespace {

constexpr int kParts = 64, kThreads = 256;

/// Maximum, its lowest index, sum of exp(x - maximum), all finite.
struct Part {
  float maximum, sum;
  int32_t token, finite;
};
static_assert(sizeof(Part) * kParts == kGreedyPartialBytes);

__device__ __forceinline__ Part merge(Part a, Part b) {
  const bool b_wins = b.maximum > a.maximum || (b.maximum == a.maximum && b.token < a.token);
  Part out = b_wins ? b : a;
  const float scale_a = a.sum > 0 ? a.sum * expf(a.maximum - out.maximum) : 0.0f;
  const float scale_b = b.sum > 0 ? b.sum * expf(b.maximum - out.maximum) : 0.0f;
  out.sum = scale_a + scale_b;
  out.finite = a.finite & b.finite;
  return out;
}

__device__ __forceinline__ Part block_merge(Part mine) {
  __shared__ Part parts[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset >>= 1) {
    Part other;
    other.maximum = __shfl_xor_sync(~0u, mine.maximum, offset);
    other.sum = __shfl_xor_sync(~0u, mine.sum, offset);
    other.token = __shfl_xor_sync(~0u, mine.token, offset);
    other.finite = __shfl_xor_sync(~0u, mine.finite, offset);
    mine = merge(mine, other);
  }
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  mine = parts[0];
  for (unsigned i = 1; i < blockDim.x / 32; ++i) mine = merge(mine, parts[i]);
  return mine;
}

__global__ void __launch_bounds__(kThreads) part_kernel(GreedyArgs args) {
  const float* x = args.logits + blockIdx.y * args.stride;
  const int per_part = (args.limit + kParts - 1) / kParts;
  const int first = blockIdx.x * per_part, last = min(args.limit, first + per_part);
  Part mine{-INFINITY, 0.0f, 0x7fffffff, 1};
  for (int i = first + threadIdx.x; i < last; i += kThreads) {
    const float value = x[i];
    mine.finite &= isfinite(value) ? 1 : 0;
    if (value > mine.maximum) {
      mine.sum = mine.sum * expf(mine.maximum - value) + 1.0f;
      mine.maximum = value;
      mine.token = i;
    } else {
      mine.sum += expf(value - mine.maximum);
    }
  }
  mine = block_merge(mine);
  if (threadIdx.x == 0) static_cast<Part*>(args.partial)[blockIdx.y * kParts + blockIdx.x] = mine;
}

__global__ void merge_kernel(GreedyArgs args) {
  const Part all =
      block_merge(static_cast<const Part*>(args.partial)[blockIdx.x * kParts + threadIdx.x]);
  if (threadIdx.x == 0) args.out[blockIdx.x] = {all.token, -logf(all.sum), all.finite};
}

}  // namespace

void greedy(const GreedyArgs& args, Stream stream) {
  launch("greedy", part_kernel, dim3(kParts, unsigned(args.rows)), kThreads, 0, stream, false,
         args);
  launch("greedy_merge", merge_kernel, dim3(unsigned(args.rows)), kParts, 0, stream, false, args);
}

}  // namespace nibble::cuda
