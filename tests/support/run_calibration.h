// Calibration alone, all layers of it: for tests that want its numbers and no checkpoint.
#pragma once

#include "quantize/calibration.h"

#include <cstdint>
#include <map>
#include <vector>

namespace nibble::quantize {

struct CalibrationResult {
  ActivationMaxima maxima;
  std::vector<int64_t> experts_seen;  // by layer
  std::map<int, LayerMoments> moments;  // by layer; kOutsideLayers: the head's
};

Result<CalibrationResult> calibrate(device::Device& device, model::CheckpointSource& source,
                                    const CalibrationRequest& request);

}  // namespace nibble::quantize
