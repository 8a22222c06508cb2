// The CUDA device of a build without CUDA: says so. The linker chooses between this and
// device/cuda.
#include "device/cuda/cuda_device.h"
#include "device/cuda/gpu_sensors.h"

namespace nibble::device {
namespace {

Error absent() {
  return {ErrorCode::unsupported, "this nibble was built without CUDA"};
}

}  // namespace

Result<std::unique_ptr<Device>> make_cuda_device(Arithmetic, const CudaOptions&) {
  return absent();
}

bool has_fp8_activations(const CudaDeviceInfo&) {
  return false;
}

Result<CudaDeviceInfo> cuda_device_info(int) {
  return absent();
}

Result<double> cuda_read_bandwidth(int) {
  return absent();
}

Result<std::unique_ptr<GpuSensors>> open_gpu_sensors(int) {
  return absent();
}

}  // namespace nibble::device
