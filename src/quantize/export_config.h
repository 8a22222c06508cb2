// The configuration a quantized checkpoint carries: quantization_config of config.json and
// hf_quant_config.json.
//
// One format: quant_algo and a list of what is excluded; several: MIXED_PRECISION and a map from
// module to format. Under Compat exactly what that ModelOpt writes; else the superset that every
// loader of spec nvfp4.md 2.4 reads.
#pragma once

#include "base/json.h"
#include "formats/hf_config.h"
#include "model/tensor_rules.h"
#include "quantize/format_plan.h"

#include <string>

namespace nibble::quantize {

struct ExportConfig {
  std::string config_json;  // the source's config.json with quantization_config added
  std::string hf_quant_config;  // hf_quant_config.json
};

/// `source_config`: text of the source's config.json. `has_vision`: the checkpoint holds vision
/// tensors.
Result<ExportConfig> make_export_config(const std::string& source_config,
                                        const formats::ModelConfig& config,
                                        const model::NamePrefix& prefix, const FormatPlan& plan,
                                        const Compat& compat, bool has_vision);

}  // namespace nibble::quantize
