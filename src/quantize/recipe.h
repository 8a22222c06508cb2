// Recipes: which modules become what, and how the result is written (design.md 5).
//
// A recipe says what; Compat says whose bytes and whose configuration. FormatPlan applies both to
// the layers of a model.
#pragma once

#include "base/result.h"
#include "formats/nvfp4_rules.h"
#include "model/tensor_rules.h"

#include <string>
#include <vector>

namespace nibble::quantize {

/// How the linear layers of a module are stored. nvfp4 and fp8 carry an input_scale,
/// nvfp4_weight_only does not.
enum class ModuleFormat { bf16, fp8, nvfp4, nvfp4_weight_only };

/// "bf16", "fp8", "nvfp4", "nvfp4-weight-only".
const char* module_format_name(ModuleFormat format);
inline bool is_nvfp4(ModuleFormat format) {
  return format == ModuleFormat::nvfp4 || format == ModuleFormat::nvfp4_weight_only;
}
inline bool has_input_scale(ModuleFormat format) {
  return format == ModuleFormat::nvfp4 || format == ModuleFormat::fp8;
}

/// The declared KV cache: not quantized, FP8 with calibrated scales, FP8 with scale 1 (no tensors).
enum class KvScheme { none, fp8_calibrated, fp8_cast };

/// Whose output is reproduced.
struct Compat {
  /// 0.44 or 0.47 of ModelOpt, bytes and configuration; none: the bytes of 0.47 on CUDA with our
  /// configuration.
  enum class Version { none, modelopt_0_44, modelopt_0_47 };
  Version version = Version::none;
  formats::Nvfp4Rules rules;

  /// "modelopt-0.44-cpu" and so on; "" for none.
  static Result<Compat> parse(const std::string& name);
};

struct Recipe {
  std::string name;
  ModuleFormat routed_experts = ModuleFormat::nvfp4;
  ModuleFormat shared_expert = ModuleFormat::nvfp4;
  ModuleFormat attention = ModuleFormat::bf16;  // q, k, v, o
  ModuleFormat delta_net = ModuleFormat::bf16;  // in_proj_qkv, in_proj_z, out_proj
  ModuleFormat lm_head = ModuleFormat::bf16;
  KvScheme kv = KvScheme::none;
  formats::ScaleMethod scales = formats::ScaleMethod::max;  // unless the user asks for another

  static Result<Recipe> find(const std::string& name);
  static std::vector<std::string> names();
  /// Format of a linear member; bf16 for everything a recipe never touches. Fused banks answer for
  /// their experts.
  ModuleFormat format_of(model::Member member) const;
};

/// Refuses what that ModelOpt cannot write, with the reason (unsupported). `scales`: the method
/// that will be used.
Result<void> check_compat(const Recipe& recipe, const Compat& compat, formats::ScaleMethod scales);

}  // namespace nibble::quantize
