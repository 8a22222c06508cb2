// UploadRing: pinned host memory through which bytes go to the device.
//
// The caller's bytes may change as soon as push() returns. Two halves: while the GPU reads one, the
// CPU fills the other.
#pragma once

#include "device/cuda/handles.h"

#include <cstddef>
#include <span>

namespace nibble::device {

class UploadRing {
 public:
  Result<void> open(size_t half_bytes);
  /// Queues the copy on `stream`; waits only while both halves are in flight.
  void push(std::byte* destination, std::span<const std::byte> host, cudaStream_t stream);

 private:
  void next_half(cudaStream_t stream);

  PinnedBytes memory_;
  size_t half_bytes_ = 0;
  CudaEvent sent_[2];
  int half_ = 0;
  size_t used_ = 0;
};

}  // namespace nibble::device
