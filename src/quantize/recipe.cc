#include "quantize/recipe.h"

#include <fmt/format.h>

namespace nibble::quantize {

using formats::ScalarDivision;
using model::Member;

Result<Compat> Compat::parse(const std::string& name) {
  Compat out;
  if (name.empty()) return out;
  const bool old = name.starts_with("modelopt-0.44-");
  const bool cpu = name.ends_with("-cpu");
  const std::string wanted =
      fmt::format("modelopt-{}-{}", old ? "0.44" : "0.47", cpu ? "cpu" : "cuda");
  if (name != wanted) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("--compat: found '{}', expected modelopt-0.44-cpu, modelopt-0.44-cuda, "
                    "modelopt-0.47-cpu or modelopt-0.47-cuda",
                    name)};
  }
  out.version = old ? Version::modelopt_0_44 : Version::modelopt_0_47;
  out.rules.division = cpu ? ScalarDivision::ieee : ScalarDivision::recip;
  out.rules.clamps_block_scales = !old;
  return out;
}

Result<Recipe> Recipe::find(const std::string& name) {
  if (name == "nvfp4-mlp") {
    return Recipe{.name = name, .quant_algo = "NVFP4", .fp8_kv = true, .input_scales = true};
  }
  return Error{ErrorCode::invalid_argument,
               fmt::format("--recipe: found '{}', expected nvfp4-mlp", name)};
}

bool Recipe::quantizes(Member member) const {
  switch (member) {
    case Member::experts_gate_up:
    case Member::experts_down:
    case Member::expert_gate:
    case Member::expert_up:
    case Member::expert_down:
    case Member::shared_gate:
    case Member::shared_up:
    case Member::shared_down:
      return true;
    default:
      return false;
  }
}

}  // namespace nibble::quantize
