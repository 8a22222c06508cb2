// ScaleTable: input scales and KV scales of every layer, derived from the activation maxima and
// checked at once.
#pragma once

#include "model/checkpoint_source.h"
#include "quantize/activation_maxima.h"
#include "quantize/format_plan.h"

#include <string>
#include <vector>

namespace nibble::quantize {

struct ScaleTable {
  /// Of members that carry one: amax / 2688 for NVFP4 (of all that share it), amax / 448 for FP8.
  MemberTable<float> input_scales;
  /// k_proj, v_proj: k_scale and v_scale.
  MemberTable<float> kv_scales;
  std::vector<std::string> warnings;

  /// Lists every maximum that is missing, negative or not finite.
  static Result<ScaleTable> make(const model::CheckpointSource& source,
                                 const ActivationMaxima& maxima, const FormatPlan& plan,
                                 const Compat& compat);
};

}  // namespace nibble::quantize
