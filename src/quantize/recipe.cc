#include "quantize/recipe.h"

#include "formats/nvfp4_search.h"

#include <fmt/format.h>

#include <array>

namespace nibble::quantize {
namespace {

using formats::ScalarDivision;
using formats::ScaleMethod;
using model::Member;
using enum ModuleFormat;

struct Row {
  const char* name;
  ModuleFormat routed, shared, attention, delta_net, head;
  KvScheme kv;
  ScaleMethod scales = ScaleMethod::max;
};

constexpr std::array kRecipes = std::to_array<Row>({
    {"nvfp4-mlp", nvfp4, nvfp4, bf16, bf16, bf16, KvScheme::fp8_calibrated},
    {"nvfp4-mlp-w4a16", nvfp4_weight_only, nvfp4_weight_only, bf16, bf16, bf16, KvScheme::none},
    {"nvfp4-all", nvfp4, nvfp4, nvfp4, nvfp4, bf16, KvScheme::none},
    {"nvfp4-mlp-fp8-attn", nvfp4, nvfp4, fp8, fp8, bf16, KvScheme::fp8_calibrated},
    {"nvfp4-experts-mse-fp8", nvfp4, fp8, fp8, fp8, bf16, KvScheme::fp8_calibrated,
     ScaleMethod::mse},
    {"w4a16-fp8-attn", nvfp4_weight_only, nvfp4_weight_only, fp8, fp8, nvfp4_weight_only,
     KvScheme::fp8_cast},
    {"nvfp4-mlp-fp8-dense", nvfp4, nvfp4, fp8, fp8, nvfp4_weight_only, KvScheme::fp8_calibrated},
    {"nvfp4-max-speed", nvfp4, nvfp4, nvfp4, nvfp4, nvfp4, KvScheme::fp8_calibrated},
});

bool is_weight_only(const Recipe& recipe) {
  return recipe.routed_experts == nvfp4_weight_only || recipe.lm_head == nvfp4_weight_only;
}

}  // namespace

const char* module_format_name(ModuleFormat format) {
  switch (format) {
    case bf16:
      return "bf16";
    case fp8:
      return "fp8";
    case nvfp4:
      return "nvfp4";
    case nvfp4_weight_only:
      return "nvfp4-weight-only";
  }
  return "?";
}

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
  for (const Row& row : kRecipes) {
    if (name != row.name) continue;
    return Recipe{name,          row.routed, row.shared, row.attention,
                  row.delta_net, row.head,   row.kv,     row.scales};
  }
  return Error{ErrorCode::invalid_argument, fmt::format("--recipe: found '{}', expected one of {}",
                                                        name, fmt::join(names(), ", "))};
}

std::vector<std::string> Recipe::names() {
  std::vector<std::string> out;
  for (const Row& row : kRecipes) out.emplace_back(row.name);
  return out;
}

ModuleFormat Recipe::format_of(Member member) const {
  switch (member) {
    case Member::experts_gate_up:
    case Member::experts_down:
    case Member::expert_gate:
    case Member::expert_up:
    case Member::expert_down:
      return routed_experts;
    case Member::shared_gate:
    case Member::shared_up:
    case Member::shared_down:
      return shared_expert;
    case Member::q_proj:
    case Member::k_proj:
    case Member::v_proj:
    case Member::o_proj:
      return attention;
    case Member::in_proj_qkv:
    case Member::in_proj_z:
    case Member::out_proj:
      return delta_net;
    case Member::lm_head:
      return lm_head;
    default:
      return bf16;
  }
}

Result<void> check_compat(const Recipe& recipe, const Compat& compat, ScaleMethod scales) {
  using Version = Compat::Version;
  if (compat.version == Version::none) return {};
  const auto refuse = [&](const std::string& reason) {
    return Error{ErrorCode::unsupported,
                 fmt::format("--compat: ModelOpt {} cannot write --recipe {}: {}",
                             compat.version == Version::modelopt_0_44 ? "0.44" : "0.47",
                             recipe.name, reason)};
  };
  if (scales != recipe.scales) {
    return refuse(fmt::format("the recipe's own scales are '{}', not '{}'; leave out --scales",
                              scale_method_name(recipe.scales), scale_method_name(scales)));
  }
  if (recipe.name == "nvfp4-mlp-fp8-dense" || recipe.name == "nvfp4-max-speed") {
    return refuse("it is nibble's own and no configuration of ModelOpt's");
  }
  if (compat.version == Version::modelopt_0_44) {
    if (is_weight_only(recipe)) return refuse("it has no format W4A16_NVFP4");
    if (recipe.scales != ScaleMethod::max) {
      return refuse("its export of searched block scales fails on fused experts");
    }
  }
  if (recipe.scales != ScaleMethod::max && compat.rules.division == ScalarDivision::ieee) {
    return refuse("its scale search needs a GPU");
  }
  return {};
}

}  // namespace nibble::quantize
