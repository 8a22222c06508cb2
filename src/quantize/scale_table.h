// ScaleTable: input scales and KV scales of every layer, derived from the activation maxima and
// checked at once.
#pragma once

#include "base/result.h"
#include "model/checkpoint_source.h"
#include "quantize/activation_maxima.h"
#include "quantize/recipe.h"

#include <string>
#include <vector>

namespace nibble::quantize {

struct LayerScales {
  float experts_gate_up_input = 0, experts_down_input = 0;
  float shared_gate_up_input = 0, shared_down_input = 0;
  float k = 0, v = 0;  // full-attention layers
};

struct ScaleTable {
  std::vector<LayerScales> layers;
  std::vector<std::string> warnings;

  /// Lists every maximum that is missing, negative or not finite.
  static Result<ScaleTable> make(const model::CheckpointSource& source,
                                 const ActivationMaxima& maxima, const Recipe& recipe,
                                 const Compat& compat);
};

}  // namespace nibble::quantize
