#include "quantize/scale_table.h"

#include "base/problems.h"
#include "formats/nvfp4_encode.h"
#include "quantize/quantizer_names.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <span>

namespace nibble::quantize {
namespace {

using model::Member;

constexpr std::array kMlpMembers = {Member::expert_gate, Member::expert_up, Member::expert_down,
                                    Member::shared_gate, Member::shared_up, Member::shared_down};
constexpr std::array kHeadMembers = {Member::lm_head};

// What ModelOpt 0.47 takes for an input that was always zero (spec nvfp4.md 1.6).
constexpr float kUnseenInputAmax = 6.0f;
// Where this family's KV scales are expected to lie (nvfp4.md 3.5).
constexpr float kSmallestUsualKvScale = 0.002f;
constexpr float kLargestUsualKvScale = 0.5f;

}  // namespace

// One ScaleTable::add.
class ScaleMaker {
 public:
  ScaleMaker(ScaleTable& table, const ActivationMaxima& maxima)
      : prefix_(*table.prefix_),
        maxima_(maxima),
        plan_(*table.plan_),
        compat_(*table.compat_),
        table_(table) {}

  // Input scales of `members`, which are all linear members of a layer.
  void input_scales(std::span<const Member> members, int layer) {
    for (const Member member : members) {
      const ModuleFormat format = plan_.of(member, layer);
      if (!has_input_scale(format)) continue;
      const float amax = input_amax(members, member, layer);
      table_.input_scales_.at(member, layer) =
          format == ModuleFormat::fp8 ? formats::fp8_tensor_scale(amax, compat_.rules.division)
                                      : formats::nvfp4_tensor_scale(amax, compat_.rules.division);
    }
  }

  float kv_scale(const std::string& quantizer) {
    const float amax = checked(quantizer);
    const float scale = formats::fp8_tensor_scale(amax, compat_.rules.division);
    if (amax == 0) {
      problems_.add(quantizer + ": 0, expected a maximum above 0");
    } else if (scale < kSmallestUsualKvScale || scale > kLargestUsualKvScale) {
      table_.warnings_.push_back(fmt::format("{}: scale {:.4g} lies outside {} to {}", quantizer,
                                             scale, kSmallestUsualKvScale, kLargestUsualKvScale));
    }
    return scale;
  }

  // A bad maximum of a weight would show only when its layer is written.
  void check_values() {
    for (const auto& [quantizer, amax] : maxima_.values()) {
      if (std::isfinite(amax) && amax >= 0) continue;
      problems_.add(fmt::format("{}: {}, expected a finite maximum", quantizer, amax));
    }
  }

  Result<void> result() const {
    return problems_.empty() ? Result<void>()
                             : problems_.error(ErrorCode::invalid_argument, "calibrated maxima");
  }

 private:
  // FP8 inputs keep their own maximum; NVFP4 linears with a common input share the largest
  // (nvfp4.md 1.7).
  float input_amax(std::span<const Member> members, Member member, int layer) {
    float amax = 0;
    for (const Member other : members) {
      const bool shared = plan_.of(other, layer) == ModuleFormat::nvfp4 &&
                          plan_.of(member, layer) == ModuleFormat::nvfp4 &&
                          scale_leader(other) == scale_leader(member);
      if (other != member && !shared) continue;
      amax = std::max(amax, checked(input_quantizer(prefix_, other, layer)));
    }
    return amax == 0 ? unseen(input_quantizer(prefix_, member, layer)) : amax;
  }

  float checked(const std::string& quantizer) {
    const std::optional<float> amax = maxima_.find(quantizer);
    if (!amax) {
      if (reported_.insert(quantizer).second) problems_.add(quantizer + ": missing");
      return 1;
    }
    return std::isfinite(*amax) ? *amax : 1;
  }
  float unseen(const std::string& quantizer) {
    if (compat_.version == Compat::Version::modelopt_0_44) {
      if (reported_.insert(quantizer).second) {
        problems_.add(quantizer + ": 0, which ModelOpt 0.44 refuses");
      }
      return 1;
    }
    if (reported_.insert(quantizer).second) {
      table_.warnings_.push_back(
          fmt::format("{}: its input was always zero; {} taken", quantizer, kUnseenInputAmax));
    }
    return kUnseenInputAmax;
  }

  const model::NamePrefix& prefix_;
  const ActivationMaxima& maxima_;
  const FormatPlan& plan_;
  const Compat& compat_;
  ScaleTable& table_;
  Problems problems_;
  std::set<std::string> reported_;  // quantizers already spoken of
};

ScaleTable::ScaleTable(const model::NamePrefix& prefix, const FormatPlan& plan,
                       const Compat& compat)
    : prefix_(&prefix),
      plan_(&plan),
      compat_(&compat),
      input_scales_(plan.layer_types().size()),
      kv_scales_(plan.layer_types().size()) {}

Result<void> ScaleTable::add(std::span<const int> layers, const ActivationMaxima& maxima) {
  ScaleMaker maker(*this, maxima);
  maker.check_values();
  for (const int layer : layers) {
    if (layer == kOutsideLayers) {
      maker.input_scales(kHeadMembers, layer);
      continue;
    }
    maker.input_scales(kMlpMembers, layer);
    maker.input_scales(plan_->dense_members(layer), layer);
    if (!plan_->has_kv_scales(layer)) continue;
    for (const Member member : {Member::k_proj, Member::v_proj}) {
      kv_scales_.at(member, layer) = maker.kv_scale(kv_quantizer(*prefix_, member, layer));
    }
  }
  return maker.result();
}

}  // namespace nibble::quantize
