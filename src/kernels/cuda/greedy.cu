// Greedy sampling: a row in 128 parts, the CTA that ends last merges them.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/greedy.h"

namespace nibble::cuda {
namespace {

constexpr int kParts = 128, kThreads = 256, kAhead = 8;

/// Maximum, its lowest index, sum of exp(x - maximum), all finite.
struct Part {
  float maximum, sum;
  int32_t token, finite;
};
/// What a row needs; finished: CTAs that are done, 0 between launches.
struct alignas(16) RowParts {
  Part part[kParts];
  uint32_t finished;
};
static_assert(sizeof(RowParts) == kGreedyPartialBytes);

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
  __syncthreads();
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = mine;
  __syncthreads();
  mine = parts[0];
  for (unsigned i = 1; i < blockDim.x / 32; ++i) mine = merge(mine, parts[i]);
  return mine;
}

__global__ void __launch_bounds__(kThreads) greedy_kernel(GreedyArgs args) {
  __shared__ bool is_last;
  const float* x = args.logits + blockIdx.y * args.stride;
  RowParts& row = static_cast<RowParts*>(args.partial)[blockIdx.y];
  const int per_part = (args.limit + kParts - 1) / kParts;
  const int first = blockIdx.x * per_part, last = min(args.limit, first + per_part);
  Part mine{-INFINITY, 0.0f, 0x7fffffff, 1};
  for (int at = first + threadIdx.x; at < last; at += kAhead * kThreads) {
    float value[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      value[i] = at + i * kThreads < last ? x[at + i * kThreads] : -INFINITY;
    }
    const float before = mine.maximum;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (at + i * kThreads < last) mine.finite &= isfinite(value[i]) ? 1 : 0;
      if (value[i] > mine.maximum) mine.maximum = value[i], mine.token = at + i * kThreads;
    }
    if (mine.maximum == -INFINITY) continue;
    mine.sum *= expf(before - mine.maximum);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) mine.sum += expf(value[i] - mine.maximum);
  }
  mine = block_merge(mine);
  if (threadIdx.x == 0) {
    row.part[blockIdx.x] = mine;
    __threadfence();
    is_last = atomicAdd(&row.finished, 1) == kParts - 1;
  }
  __syncthreads();
  if (!is_last) return;
  mine = Part{-INFINITY, 0.0f, 0x7fffffff, 1};
  if (threadIdx.x < kParts) {
    const float4 raw = __ldcg(reinterpret_cast<const float4*>(&row.part[threadIdx.x]));
    mine = {raw.x, raw.y, __float_as_int(raw.z), __float_as_int(raw.w)};
  }
  mine = block_merge(mine);
  if (threadIdx.x == 0) {
    row.finished = 0;
    args.out[blockIdx.y] = {mine.token, -logf(mine.sum), mine.finite};
  }
}

}  // namespace

void greedy(const GreedyArgs& args, Stream stream) {
  launch("greedy", greedy_kernel, dim3(kParts, unsigned(args.rows)), kThreads, 0, stream, false,
         args);
}

}  // namespace nibble::cuda
