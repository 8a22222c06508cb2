// The library's types and numbers as its ABI has them; its header is not part of the CUDA toolkit's
// minimum.
#include "device/cuda/gpu_sensors.h"

#include "device/cuda/handles.h"
#include "device/cuda/shared_library.h"

#include <string>
#include <utility>

namespace nibble::device {
namespace {

using NvmlDevice = void*;
using NvmlStatus = int;  // 0: success
constexpr unsigned kTemperatureOfGpu = 0, kSmClock = 1, kMemoryClock = 2;

class NvmlSensors final : public GpuSensors {
 public:
  ~NvmlSensors() override {
    if (shutdown_ != nullptr) (void)shutdown_();
  }

  Result<void> open(int ordinal) {
    NIBBLE_ASSIGN_OR_RETURN(library_, SharedLibrary::open({"libnvidia-ml.so.1"}));
    NvmlStatus (*init)() = nullptr;
    NvmlStatus (*find)(const char*, NvmlDevice*) = nullptr;
    NIBBLE_RETURN_IF_ERROR(library_.find("nvmlInit_v2", init));
    NIBBLE_RETURN_IF_ERROR(library_.find("nvmlDeviceGetHandleByPciBusId_v2", find));
    NIBBLE_RETURN_IF_ERROR(library_.find("nvmlDeviceGetTotalEnergyConsumption", energy_));
    NIBBLE_RETURN_IF_ERROR(library_.find("nvmlDeviceGetPowerUsage", power_));
    NIBBLE_RETURN_IF_ERROR(library_.find("nvmlDeviceGetTemperature", temperature_));
    NIBBLE_RETURN_IF_ERROR(library_.find("nvmlDeviceGetClockInfo", clock_));
    char bus_id[32] = {};
    const cudaError_t status = cudaDeviceGetPCIBusId(bus_id, sizeof(bus_id), ordinal);
    if (status != cudaSuccess) return cuda_error(status, "reading the GPU's bus id");
    NvmlStatus failure = init();
    if (failure == 0) {
      NIBBLE_RETURN_IF_ERROR(library_.find("nvmlShutdown", shutdown_));
      failure = find(bus_id, &device_);
    }
    if (failure == 0) return {};
    return Error{ErrorCode::unsupported,
                 std::string("NVML, GPU ") + bus_id + ": status " + std::to_string(failure)};
  }

  GpuReading read() override {
    unsigned long long millijoules = 0;
    unsigned milliwatts = 0, celsius = 0, sm = 0, memory = 0;
    (void)energy_(device_, &millijoules);
    (void)power_(device_, &milliwatts);
    (void)temperature_(device_, kTemperatureOfGpu, &celsius);
    (void)clock_(device_, kSmClock, &sm);
    (void)clock_(device_, kMemoryClock, &memory);
    return {1e-3 * static_cast<double>(millijoules), 1e-3 * milliwatts, static_cast<int>(celsius),
            static_cast<int>(sm), static_cast<int>(memory)};
  }

 private:
  SharedLibrary library_;
  NvmlDevice device_ = nullptr;
  NvmlStatus (*shutdown_)() = nullptr;
  NvmlStatus (*energy_)(NvmlDevice, unsigned long long*) = nullptr;
  NvmlStatus (*power_)(NvmlDevice, unsigned*) = nullptr;
  NvmlStatus (*temperature_)(NvmlDevice, unsigned, unsigned*) = nullptr;
  NvmlStatus (*clock_)(NvmlDevice, unsigned, unsigned*) = nullptr;
};

}  // namespace

Result<std::unique_ptr<GpuSensors>> open_gpu_sensors(int ordinal) {
  auto sensors = std::make_unique<NvmlSensors>();
  NIBBLE_RETURN_IF_ERROR(sensors->open(ordinal));
  return std::unique_ptr<GpuSensors>(std::move(sensors));
}

}  // namespace nibble::device
