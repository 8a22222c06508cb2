// LayerStatistics: what a calibration learnt about one layer (kOutsideLayers: about the head).
#pragma once

#include "base/result.h"
#include "quantize/activation_maxima.h"
#include "quantize/layer_inputs.h"
#include "quantize/moments.h"

#include <cstdint>
#include <functional>

namespace nibble::quantize {

struct LayerStatistics {
  ActivationMaxima maxima;  // of this layer only
  int64_t experts_seen = 0;  // routed experts that a token was sent to
  LayerMoments moments;  // empty unless they were asked for
  LayerInputs inputs;  // likewise
};

/// Gives the statistics of each layer when its turn comes: layers in order, from any first one,
/// then kOutsideLayers. Called once per layer of a run.
using StatisticsSource = std::function<Result<LayerStatistics>(int layer)>;

}  // namespace nibble::quantize
