#include "tests/support/run_calibration.h"

#include "quantize/member_table.h"

#include <utility>

namespace nibble::quantize {

Result<CalibrationResult> calibrate(device::Device& device, model::CheckpointSource& source,
                                    const CalibrationRequest& request) {
  NIBBLE_ASSIGN_OR_RETURN(
      const auto calibrator,
      Calibrator::open(device, source, request, [](int64_t, int64_t) { return true; }));
  CalibrationResult out;
  const auto layers = static_cast<int>(source.config().num_hidden_layers);
  for (int i = 0; i <= layers; ++i) {
    const int layer = i < layers ? i : kOutsideLayers;
    NIBBLE_ASSIGN_OR_RETURN(LayerStatistics found, calibrator->layer(layer));
    out.maxima.raise(found.maxima);
    if (i < layers) out.experts_seen.push_back(found.experts_seen);
    out.moments[layer] = std::move(found.moments);
  }
  return out;
}

}  // namespace nibble::quantize
