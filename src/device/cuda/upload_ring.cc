// See upload_ring.h.
#include "device/cuda/upload_ring.h"

#include <algorithm>
#include <cstring>

namespace nibble::device {

Result<void> UploadRing::open(size_t half_bytes) {
  half_bytes_ = half_bytes;
  cudaError_t status = cudaMallocHost(memory_.out(), 2 * half_bytes);
  for (CudaEvent& event : sent_) {
    if (status == cudaSuccess) {
      status = cudaEventCreateWithFlags(event.out(), cudaEventDisableTiming);
    }
  }
  if (status != cudaSuccess) return cuda_error(status, "pinned memory for uploads");
  return {};
}

void UploadRing::next_half(cudaStream_t stream) {
  NIBBLE_CUDA_CHECK(cudaEventRecord(sent_[half_].get(), stream));
  half_ ^= 1;
  used_ = 0;
  NIBBLE_CUDA_CHECK(cudaEventSynchronize(sent_[half_].get()));
}

void UploadRing::push(std::byte* destination, std::span<const std::byte> host,
                      cudaStream_t stream) {
  while (!host.empty()) {
    if (used_ >= half_bytes_) next_half(stream);
    const size_t bytes = std::min(host.size(), half_bytes_ - used_);
    std::byte* pinned =
        static_cast<std::byte*>(memory_.get()) + static_cast<size_t>(half_) * half_bytes_ + used_;
    std::memcpy(pinned, host.data(), bytes);
    NIBBLE_CUDA_CHECK(cudaMemcpyAsync(destination, pinned, bytes, cudaMemcpyHostToDevice, stream));
    destination += bytes;
    host = host.subspan(bytes);
    used_ += (bytes + 63) / 64 * 64;
  }
}

}  // namespace nibble::device
