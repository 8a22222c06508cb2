// The CUDA device of a build without CUDA: says so. The linker chooses between this and
// device/cuda.
#include "device/cuda/cuda_device.h"

namespace nibble::device {

Result<std::unique_ptr<Device>> make_cuda_device(Arithmetic, int) {
  return Error{ErrorCode::unsupported, "this nibble was built without CUDA"};
}

Result<CudaDeviceInfo> cuda_device_info(int) {
  return Error{ErrorCode::unsupported, "this nibble was built without CUDA"};
}

}  // namespace nibble::device
