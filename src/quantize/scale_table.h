// ScaleTable: input scales and KV scales, derived from the activation maxima and checked, layer by
// layer as those become known.
#pragma once

#include "model/tensor_rules.h"
#include "quantize/activation_maxima.h"
#include "quantize/format_plan.h"

#include <span>
#include <string>
#include <vector>

namespace nibble::quantize {

class ScaleTable {
 public:
  ScaleTable() = default;
  /// All references must outlive the table.
  ScaleTable(const model::NamePrefix& prefix, const FormatPlan& plan, const Compat& compat);

  /// Derives the scales of `layers` (kOutsideLayers: of the head). Lists every maximum that is
  /// missing, negative or not finite (invalid_argument).
  Result<void> add(std::span<const int> layers, const ActivationMaxima& maxima);

  /// Of a member that carries one: amax / 2688 for NVFP4 (of all that share it), amax / 448 for
  /// FP8.
  float input_scale(model::Member member, int layer) const {
    return input_scales_.at(member, layer);
  }
  /// k_proj, v_proj: k_scale and v_scale.
  float kv_scale(model::Member member, int layer) const { return kv_scales_.at(member, layer); }
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  friend class ScaleMaker;

  const model::NamePrefix* prefix_ = nullptr;
  const FormatPlan* plan_ = nullptr;
  const Compat* compat_ = nullptr;
  MemberTable<float> input_scales_;
  MemberTable<float> kv_scales_;
  std::vector<std::string> warnings_;
};

}  // namespace nibble::quantize
