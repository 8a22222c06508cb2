// Tests for the written configurations against ModelOpt's own (as JSON values), and for our
// superset.
#include "quantize/export_config.h"

#include "base/file.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <string>

namespace nibble::quantize {
namespace {

ExportConfig make(const std::string& compat, const std::string& recipe = "nvfp4-mlp") {
  const std::string source = std::string(kGoldens) + "/source";
  const auto config = formats::load_model_config(source);
  const Compat parsed = Compat::parse(compat).value();
  const auto plan =
      FormatPlan::make(config.value(), model::NamePrefix(), Recipe::find(recipe).value(), parsed);
  EXPECT_TRUE(plan.ok());
  auto made = make_export_config(read_file(source + "/config.json").value(), config.value(),
                                 model::NamePrefix(), plan.value(), parsed, true);
  EXPECT_TRUE(made.ok());
  return std::move(made).value();
}

TEST(ExportConfig, IsModelOptsUnderCompat) {
  for (const auto& [compat, folder] : {std::pair("modelopt-0.47-cuda", "mlp_max"),
                                       std::pair("modelopt-0.44-cuda", "mlp_max_044")}) {
    SCOPED_TRACE(compat);
    const ExportConfig mine = make(compat);
    const std::string golden = std::string(kGoldens) + "/" + folder + "/cuda/";
    EXPECT_EQ(parse_json(mine.config_json, "mine").value()["quantization_config"],
              read_json_file(golden + "config.json").value()["quantization_config"]);
    EXPECT_EQ(parse_json(mine.hf_quant_config, "mine").value(),
              read_json_file(golden + "hf_quant_config.json").value());
  }
}

TEST(ExportConfig, OursIsASuperset) {
  const Json ours = parse_json(make("").config_json, "ours").value()["quantization_config"];
  const Json theirs =
      parse_json(make("modelopt-0.47-cuda").config_json, "theirs").value()["quantization_config"];
  for (const Json& module : theirs["ignore"]) {
    EXPECT_NE(std::find(ours["ignore"].begin(), ours["ignore"].end(), module), ours["ignore"].end())
        << module;
  }
  for (const char* extra : {"mtp*", "mtp.layers.0*", "model.visual*"}) {
    EXPECT_NE(std::find(ours["ignore"].begin(), ours["ignore"].end(), extra), ours["ignore"].end())
        << extra;
  }
  EXPECT_EQ(ours["group_size"], 16);
  EXPECT_EQ(ours["config_groups"], theirs["config_groups"]);
  EXPECT_EQ(ours["kv_cache_scheme"], theirs["kv_cache_scheme"]);
}

TEST(ExportConfig, MixedFormatsNameEveryModule) {
  for (const char* recipe : {"nvfp4-mlp-fp8-dense", "w4a16-fp8-attn"}) {
    SCOPED_TRACE(recipe);
    const Json ours =
        parse_json(make("", recipe).config_json, "ours").value()["quantization_config"];
    EXPECT_EQ(ours["quant_algo"], "MIXED_PRECISION");
    EXPECT_EQ(ours["quantized_layers"]["lm_head"]["quant_algo"], "W4A16_NVFP4");
    size_t targets = 0;
    for (const Json& group : ours["config_groups"]) targets += group["targets"].size();
    EXPECT_EQ(targets, ours["quantized_layers"].size());
    for (const Json& excluded : ours["ignore"]) {
      EXPECT_FALSE(ours["quantized_layers"].contains(excluded.get<std::string>())) << excluded;
    }
  }
  const Json fast = parse_json(make("", "nvfp4-max-speed").config_json, "ours").value();
  EXPECT_EQ(fast["quantization_config"]["quant_algo"], "NVFP4");
}

TEST(ExportConfig, BothFilesAgreeAndTheRestOfTheConfigStays) {
  const ExportConfig ours = make("");
  const Json config = parse_json(ours.config_json, "ours").value();
  const Json hf = parse_json(ours.hf_quant_config, "ours").value();
  EXPECT_EQ(hf["quantization"]["exclude_modules"], config["quantization_config"]["ignore"]);
  EXPECT_EQ(hf["producer"], config["quantization_config"]["producer"]);
  const Json source = read_json_file(std::string(kGoldens) + "/source/config.json").value();
  for (const auto& [key, value] : source.items()) EXPECT_EQ(config[key], value) << key;
}

TEST(ExportConfig, LoadsAgain) {
  const auto config = formats::parse_model_config(make("").config_json, "ours");
  ASSERT_TRUE(config.ok()) << config.error().message;
  ASSERT_TRUE(config.value().quantization_config);
  EXPECT_EQ(config.value().quantization_config->kv_cache, formats::KvCacheScheme::fp8);
  EXPECT_TRUE(config.value().quantization_config->ignores("lm_head"));
}

}  // namespace
}  // namespace nibble::quantize
