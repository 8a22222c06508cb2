// RAII of CUDA handles: streams, events, graphs, device and pinned memory. Destructors never throw
// or wait.
//
// NIBBLE_CUDA_CHECK is for calls that fail only by our bug or a lost device; what may fail at
// start-up (memory, no GPU) goes through cuda_error() into a Result.
#pragma once

#include "base/check.h"
#include "base/result.h"

#include <cstddef>
#include <cuda_runtime_api.h>
#include <string>
#include <utility>

#define NIBBLE_CUDA_CHECK(call)                            \
  do {                                                     \
    const cudaError_t nibble_cuda_status = (call);         \
    NIBBLE_CHECK(nibble_cuda_status == cudaSuccess, #call, \
                 cudaGetErrorString(nibble_cuda_status));  \
  } while (false)

namespace nibble::device {

inline Error cuda_error(cudaError_t status, const std::string& what) {
  (void)cudaGetLastError();  // a failed call must not be reported again by the next check
  const bool memory = status == cudaErrorMemoryAllocation;
  return {memory ? ErrorCode::exhausted : ErrorCode::unsupported,
          what + ": " + cudaGetErrorString(status)};
}

/// A handle of type T closed by kClose; move-only.
template <typename T, cudaError_t (*kClose)(T)>
class CudaHandle {
 public:
  CudaHandle() = default;
  explicit CudaHandle(T handle) : handle_(handle) {}
  CudaHandle(CudaHandle&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  CudaHandle& operator=(CudaHandle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  CudaHandle(const CudaHandle&) = delete;
  CudaHandle& operator=(const CudaHandle&) = delete;
  ~CudaHandle() {
    if (handle_ != nullptr) (void)kClose(handle_);
  }
  T get() const { return handle_; }
  T* out() { return &handle_; }

 private:
  T handle_ = nullptr;
};

using CudaStream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using CudaEvent = CudaHandle<cudaEvent_t, cudaEventDestroy>;
using CudaGraph = CudaHandle<cudaGraph_t, cudaGraphDestroy>;
using CudaGraphExec = CudaHandle<cudaGraphExec_t, cudaGraphExecDestroy>;
using CudaBytes = CudaHandle<void*, cudaFree>;
using PinnedBytes = CudaHandle<void*, cudaFreeHost>;

}  // namespace nibble::device
