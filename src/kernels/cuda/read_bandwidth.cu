// A one-shot grid: every thread sums 16-byte loads of its own; the sums keep the loads alive.
#include "kernels/cuda/common.cuh"
#include "kernels/cuda/read_bandwidth.h"

namespace nibble::cuda {
namespace {

constexpr size_t kBytes = size_t{4} << 30;
constexpr int kLoads = 8, kThreads = 256;

__global__ void read_kernel(const uint4* data, uint32_t* out) {
  const size_t first = blockIdx.x * size_t{kThreads} * kLoads + threadIdx.x;
  uint32_t sum = 0;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
    const uint4 v = load_stream(data + first + i * kThreads);
    sum ^= v.x ^ v.y ^ v.z ^ v.w;
  }
  if (sum == 0x12345678u) *out = sum;
}

}  // namespace

double read_bandwidth() {
  void* data = nullptr;
  if (cudaMalloc(&data, kBytes) != cudaSuccess) {
    (void)cudaGetLastError();
    return 0;
  }
  uint32_t* out = nullptr;
  check_launch(cudaMalloc(&out, 4), "bandwidth result");
  fill_random_bytes(data, kBytes, 3, ~0ull, 0, nullptr);
  cudaEvent_t begin, end;
  check_launch(cudaEventCreate(&begin), "event");
  check_launch(cudaEventCreate(&end), "event");
  float best = 1e9f;
  for (int i = 0; i < 10; ++i) {
    cudaEventRecord(begin);
    read_kernel<<<kBytes / 16 / kThreads / kLoads, kThreads>>>(static_cast<const uint4*>(data),
                                                               out);
    cudaEventRecord(end);
    check_launch(cudaEventSynchronize(end), "bandwidth");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    if (ms < best) best = ms;
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaFree(data);
  cudaFree(out);
  return static_cast<double>(kBytes) / (1e-3 * best);
}

}  // namespace nibble::cuda
