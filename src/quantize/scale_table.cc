#include "quantize/scale_table.h"

#include "base/problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::quantize {
namespace {

// What ModelOpt 0.47 takes for an input that was always zero (spec nvfp4.md 1.6).
constexpr float kUnseenInputAmax = 6.0f;
// Where this family's KV scales are expected to lie (nvfp4.md 3.5).
constexpr float kSmallestUsualKvScale = 0.002f;
constexpr float kLargestUsualKvScale = 0.5f;

class ScaleMaker {
 public:
  ScaleMaker(const ActivationMaxima& maxima, const Compat& compat, ScaleTable& table)
      : maxima_(maxima), compat_(compat), table_(table) {}

  float input_scale(std::initializer_list<const std::string*> quantizers) {
    // Linears with a common input share the largest maximum (nvfp4.md 1.7).
    float amax = 0;
    for (const std::string* quantizer : quantizers) amax = std::max(amax, checked(*quantizer));
    if (amax == 0) amax = unseen(**quantizers.begin());
    return formats::nvfp4_tensor_scale(amax, compat_.rules.division);
  }

  float kv_scale(const std::string& quantizer) {
    const float amax = checked(quantizer);
    const float scale = formats::fp8_tensor_scale(amax, compat_.rules.division);
    if (amax == 0) {
      problems_.add(quantizer + ": 0, expected a maximum above 0");
    } else if (scale < kSmallestUsualKvScale || scale > kLargestUsualKvScale) {
      table_.warnings.push_back(fmt::format("{}: scale {:.4g} lies outside {} to {}", quantizer,
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
  float checked(const std::string& quantizer) {
    const std::optional<float> amax = maxima_.find(quantizer);
    if (!amax) {
      problems_.add(quantizer + ": missing");
      return 1;
    }
    return std::isfinite(*amax) ? *amax : 1;
  }
  float unseen(const std::string& quantizer) {
    if (compat_.version == Compat::Version::modelopt_0_44) {
      problems_.add(quantizer + ": 0, which ModelOpt 0.44 refuses");
      return 1;
    }
    table_.warnings.push_back(
        fmt::format("{}: its input was always zero; {} taken", quantizer, kUnseenInputAmax));
    return kUnseenInputAmax;
  }

  const ActivationMaxima& maxima_;
  const Compat& compat_;
  ScaleTable& table_;
  Problems problems_;
};

}  // namespace

Result<ScaleTable> ScaleTable::make(const model::CheckpointSource& source,
                                    const ActivationMaxima& maxima, const Recipe& recipe,
                                    const Compat& compat) {
  ScaleTable table;
  ScaleMaker maker(maxima, compat, table);
  maker.check_values();
  const formats::ModelConfig& config = source.config();
  for (size_t i = 0; i < config.layer_types.size(); ++i) {
    const QuantizerNames names(source.prefix().text + "layers." + std::to_string(i) + ".");
    LayerScales scales;
    if (recipe.input_scales) {
      scales.experts_gate_up_input = maker.input_scale({&names.experts_gate_up_input});
      scales.experts_down_input = maker.input_scale({&names.experts_down_input});
      scales.shared_gate_up_input =
          maker.input_scale({&names.shared_gate_input, &names.shared_up_input});
      scales.shared_down_input = maker.input_scale({&names.shared_down_input});
    }
    if (recipe.fp8_kv && config.layer_types[i] == formats::LayerType::full_attention) {
      scales.k = maker.kv_scale(names.k);
      scales.v = maker.kv_scale(names.v);
    }
    table.layers.push_back(scales);
  }
  NIBBLE_RETURN_IF_ERROR(maker.result());
  return table;
}

}  // namespace nibble::quantize
