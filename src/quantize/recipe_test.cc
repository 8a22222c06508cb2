// Tests for recipes, compatibility and the plan of formats they make.
#include "quantize/recipe.h"

#include "quantize/format_plan.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble::quantize {
namespace {

using formats::ScalarDivision;
using formats::ScaleMethod;
using model::Member;

formats::ModelConfig golden_config() {
  return formats::load_model_config(std::string(kGoldens) + "/source").value();
}

Result<FormatPlan> plan_of(const std::string& recipe, const std::string& rules = "",
                           const std::string& compat = "") {
  const auto parsed = parse_format_rules(rules, "rules");
  EXPECT_TRUE(parsed.ok());
  return FormatPlan::make(golden_config(), model::NamePrefix(), Recipe::find(recipe).value(),
                          Compat::parse(compat).value(), parsed.value());
}

std::string refusal(const std::string& recipe, const std::string& rules) {
  const auto plan = plan_of(recipe, rules);
  return plan.ok() ? "" : plan.error().message;
}

TEST(Compat, Names) {
  EXPECT_EQ(Compat::parse("").value().version, Compat::Version::none);
  EXPECT_EQ(Compat::parse("").value().rules.division, ScalarDivision::recip);
  EXPECT_TRUE(Compat::parse("").value().rules.clamps_block_scales);
  const Compat old = Compat::parse("modelopt-0.44-cpu").value();
  EXPECT_EQ(old.version, Compat::Version::modelopt_0_44);
  EXPECT_EQ(old.rules.division, ScalarDivision::ieee);
  EXPECT_FALSE(old.rules.clamps_block_scales);
  const Compat now = Compat::parse("modelopt-0.47-cuda").value();
  EXPECT_EQ(now.version, Compat::Version::modelopt_0_47);
  EXPECT_EQ(now.rules.division, ScalarDivision::recip);
  EXPECT_TRUE(now.rules.clamps_block_scales);
  for (const char* name : {"modelopt-0.45-cpu", "modelopt-0.44-", "modelopt-0.44-cpux", "x"}) {
    const auto compat = Compat::parse(name);
    ASSERT_FALSE(compat.ok()) << name;
    EXPECT_NE(compat.error().message.find(name), std::string::npos);
  }
}

TEST(Recipe, KnownAndUnknown) {
  EXPECT_EQ(Recipe::names().size(), 8u);
  for (const std::string& name : Recipe::names()) {
    EXPECT_TRUE(Recipe::find(name).ok()) << name;
    EXPECT_TRUE(plan_of(name).ok()) << name;
  }
  const Recipe seed = Recipe::find("nvfp4-mlp").value();
  EXPECT_EQ(seed.kv, KvScheme::fp8_calibrated);
  EXPECT_EQ(seed.format_of(Member::shared_down), ModuleFormat::nvfp4);
  EXPECT_EQ(seed.format_of(Member::router), ModuleFormat::bf16);
  EXPECT_EQ(seed.format_of(Member::lm_head), ModuleFormat::bf16);
  const auto unknown = Recipe::find("nvfp4");
  ASSERT_FALSE(unknown.ok());
  EXPECT_NE(unknown.error().message.find("nvfp4-max-speed"), std::string::npos);
}

TEST(Compat, RefusesWhatThatModelOptCannotWrite) {
  const auto refused = [](const std::string& recipe, const std::string& compat,
                          const std::string& reason) {
    const Recipe found = Recipe::find(recipe).value();
    const auto checked = check_compat(found, Compat::parse(compat).value(), found.scales);
    return !checked.ok() && checked.error().message.find(reason) != std::string::npos;
  };
  EXPECT_TRUE(refused("nvfp4-mlp-w4a16", "modelopt-0.44-cuda", "no format W4A16_NVFP4"));
  EXPECT_TRUE(refused("w4a16-fp8-attn", "modelopt-0.44-cpu", "no format W4A16_NVFP4"));
  EXPECT_TRUE(refused("nvfp4-experts-mse-fp8", "modelopt-0.44-cuda", "searched block scales"));
  EXPECT_TRUE(refused("nvfp4-experts-mse-fp8", "modelopt-0.47-cpu", "needs a GPU"));
  EXPECT_TRUE(refused("nvfp4-max-speed", "modelopt-0.47-cuda", "nibble's own"));
  for (const char* recipe : {"nvfp4-mlp", "nvfp4-all", "nvfp4-mlp-fp8-attn"}) {
    EXPECT_FALSE(refused(recipe, "modelopt-0.44-cuda", "")) << recipe;
  }
  EXPECT_FALSE(refused("nvfp4-experts-mse-fp8", "modelopt-0.47-cuda", ""));
  EXPECT_FALSE(refused("nvfp4-max-speed", "", ""));
  const auto searched = check_compat(Recipe::find("nvfp4-mlp").value(),
                                     Compat::parse("modelopt-0.47-cuda").value(), ScaleMethod::mse);
  EXPECT_FALSE(searched.ok());
}

TEST(FormatPlan, OldModelOptQuantizesTheSmallProjections) {
  EXPECT_EQ(plan_of("nvfp4-all").value().of(Member::in_proj_a, 0), ModuleFormat::bf16);
  EXPECT_EQ(plan_of("nvfp4-all", "", "modelopt-0.44-cuda").value().of(Member::in_proj_b, 0),
            ModuleFormat::nvfp4);
}

TEST(FormatPlan, RulesRefineTheRecipeLaterOnesWin) {
  const auto plan = plan_of("nvfp4-mlp",
                            "# comment\n*self_attn* fp8\n\n*layers.3.self_attn.* bf16  # again\n"
                            "*layers.0.mlp.experts bf16\nlm_head nvfp4-weight-only\n");
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_EQ(plan.value().of(Member::q_proj, 1), ModuleFormat::fp8);
  EXPECT_EQ(plan.value().of(Member::q_proj, 3), ModuleFormat::bf16);
  EXPECT_EQ(plan.value().of(Member::expert_up, 0), ModuleFormat::bf16);
  EXPECT_EQ(plan.value().of(Member::experts_gate_up, 0), ModuleFormat::bf16);
  EXPECT_EQ(plan.value().of(Member::expert_up, 1), ModuleFormat::nvfp4);
  EXPECT_EQ(plan.value().of(Member::lm_head, kOutsideLayers), ModuleFormat::nvfp4_weight_only);
}

TEST(FormatPlan, RefusedRules) {
  EXPECT_NE(refusal("nvfp4-mlp", "*no_such* fp8\n").find("matches no module"), std::string::npos);
  EXPECT_NE(refusal("nvfp4-mlp", "*k_proj fp8\n").find("loaders fuse"), std::string::npos);
  EXPECT_NE(refusal("nvfp4-mlp", "*shared_expert.up_proj bf16\n").find("loaders fuse"),
            std::string::npos);
  for (const char* bad : {"*q_proj\n", "*q_proj int8\n", "*q_proj fp8 more\n"}) {
    const auto rules = parse_format_rules(bad, "rules.txt");
    ASSERT_FALSE(rules.ok()) << bad;
    EXPECT_NE(rules.error().message.find("line 1"), std::string::npos);
  }
}

TEST(FormatPlan, TiedHeadsStayAsTheyAre) {
  formats::ModelConfig config = golden_config();
  config.tie_word_embeddings = true;
  const auto plan = FormatPlan::make(config, model::NamePrefix(),
                                     Recipe::find("nvfp4-max-speed").value(), Compat());
  ASSERT_FALSE(plan.ok());
  EXPECT_NE(plan.error().message.find("lm_head"), std::string::npos);
}

}  // namespace
}  // namespace nibble::quantize
