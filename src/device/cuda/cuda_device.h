// The CUDA device: one NVIDIA GPU, one compute stream, kernels of kernels/cuda.
//
// Operations are queued on the stream; only synchronize(), download() and the report to an Observer
// wait. Decode steps are captured as graphs (run_step) and replayed. Builds without CUDA link
// device/cuda_absent.cc, which answers ErrorCode::unsupported.
#pragma once

#include "base/result.h"
#include "device/device.h"

#include <cstddef>
#include <memory>
#include <string>

namespace nibble::device {

struct CudaDeviceInfo {
  std::string name;
  int compute_major = 0, compute_minor = 0, multiprocessors = 0;
  size_t shared_bytes = 0;  // that one block may have
  size_t total_bytes = 0, free_bytes = 0;
};

/// GPU number `ordinal` of this process. unsupported: no driver, no such GPU, or one this build has
/// no kernels for.
Result<CudaDeviceInfo> cuda_device_info(int ordinal);

/// Bytes per second that kernels read from the GPU's memory, the best of ten passes over 4 GiB.
/// Errors as cuda_device_info, and exhausted.
Result<double> cuda_read_bandwidth(int ordinal);

struct CudaOptions {
  int ordinal = 0;
  Activations activations = Activations::full;
};

/// Whether Activations::fp8 can be had on that GPU: its FP8 products are those of sm_90a. nvfp4
/// runs everywhere, at speed only on compute capability 12.x.
bool has_fp8_activations(const CudaDeviceInfo& info);

/// The device on that GPU. Errors as cuda_device_info, and exhausted; rounded activations with
/// f32 or on a GPU that has not got them: invalid_argument, unsupported.
Result<std::unique_ptr<Device>> make_cuda_device(Arithmetic arithmetic, const CudaOptions& options);

}  // namespace nibble::device
