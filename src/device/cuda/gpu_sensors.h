// Power, temperature and clocks of a GPU, read through the driver's management library (NVML).
//
// libnvidia-ml.so.1 is opened at run time: a machine without it, and a build without CUDA, answer
// with an error that says so. One thread at a time.
#pragma once

#include "base/result.h"

#include <memory>

namespace nibble::device {

struct GpuReading {
  double joules = 0;  // since the driver was loaded; updated every 20 to 100 ms
  double watts = 0;  // averaged by the driver, about a second
  int celsius = 0;
  int sm_mhz = 0, memory_mhz = 0;
};

class GpuSensors {
 public:
  virtual ~GpuSensors() = default;
  /// What cannot be read is 0.
  virtual GpuReading read() = 0;
};

/// Sensors of GPU number `ordinal` of this process. unsupported: no NVML, or it does not know the
/// GPU.
Result<std::unique_ptr<GpuSensors>> open_gpu_sensors(int ordinal);

}  // namespace nibble::device
