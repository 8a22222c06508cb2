// Tests for verify: every recipe's own output passes; each kind of damage is found and named.
#include "quantize/verify.h"

#include "base/file.h"
#include "quantize/calibration.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

namespace nibble::quantize {
namespace {

const std::string kLayer = "model.language_model.layers.";

// Our own maxima: the golden tables lack what recipes of ours need.
ActivationMaxima own_maxima(TestModel& model) {
  const auto tokens = read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json");
  return calibrate(model.device(), model.source(), {tokens.value(), nullptr},
                   [](int, int) { return true; })
      .value()
      .maxima;
}

struct Opened {
  std::unique_ptr<formats::Checkpoint> checkpoint;
  std::unique_ptr<model::CheckpointSource> source;

  explicit Opened(const std::string& folder) {
    checkpoint =
        std::make_unique<formats::Checkpoint>(std::move(formats::Checkpoint::open(folder)).value());
    auto opened =
        model::CheckpointSource::open(*checkpoint, formats::load_model_config(folder).value());
    EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message);
    source = std::move(opened).value();
  }
};

VerifyReport check(TestModel& model, const std::string& folder) {
  const Opened quantized(folder);
  auto report = verify(model.device(), {model.checkpoint(), model.source()},
                       {*quantized.checkpoint, *quantized.source}, uninterrupted);
  EXPECT_TRUE(report.ok()) << (report.ok() ? "" : report.error().message);
  return std::move(report).value();
}

std::string problems_of(const VerifyReport& report) {
  return report.problems.empty() ? "" : report.problems.error(ErrorCode::corrupt, "x").message;
}

TEST(Verify, EveryRecipeAndSearchPasses) {
  TestModel model;
  const ActivationMaxima maxima = own_maxima(model);
  for (const std::string& name : Recipe::names()) {
    SCOPED_TRACE(name);
    ExportJob job = model.job();
    job.recipe = Recipe::find(name).value();
    job.scales = job.recipe.scales;
    std::filesystem::remove_all(model.output("export"));
    const auto report = model.run(job, maxima, uninterrupted);
    ASSERT_TRUE(report.ok()) << report.error().message;
    const VerifyReport verified = check(model, model.output("export"));
    EXPECT_EQ(problems_of(verified), "");
    // The exporter's own figures are those of the re-read file.
    EXPECT_EQ(verified.errors.at("all").sums.difference,
              report.value().errors.at("all").sums.difference);
    EXPECT_EQ(verified.nvfp4 + verified.fp8, verified.errors.at("all").matrices);
    if (job.scales == formats::ScaleMethod::max) {
      EXPECT_EQ(verified.max_rule_blocks, verified.blocks);
    }
  }
}

// Figures of the goldens' README: the weight error of all 108 expert matrices.
TEST(Verify, FiguresOfTheSearches) {
  TestModel model;
  const ActivationMaxima maxima = own_maxima(model);
  for (const auto& [method, relative, sqnr] :
       {std::tuple(formats::ScaleMethod::max, 0.09281, 20.648),
        std::tuple(formats::ScaleMethod::four_over_six, 0.08666, 21.244),
        std::tuple(formats::ScaleMethod::mse, 0.08192, 21.732)}) {
    SCOPED_TRACE(relative);
    ExportJob job = model.job();
    job.scales = method;
    std::filesystem::remove_all(model.output("export"));
    ASSERT_TRUE(model.run(job, maxima, uninterrupted).ok());
    const VerifyReport report = check(model, model.output("export"));
    EXPECT_EQ(problems_of(report), "");
    EXPECT_EQ(report.errors.at("all").matrices, 108);
    EXPECT_NEAR(report.errors.at("all").relative(), relative, 1e-5);
    EXPECT_NEAR(report.errors.at("all").sqnr(), sqnr, 1e-3);
  }
}

TEST(Verify, DamageIsFoundAndNamed) {
  TestModel model;
  ASSERT_TRUE(model.run().ok());
  const std::string folder = model.output("export");
  const TestTensors good = read_tensors(folder);
  const std::string expert = kLayer + "1.mlp.experts.2.";
  const auto damage = [&](const std::string& name, const std::function<void(TestTensor&)>& edit) {
    TestTensors bad = good;
    edit(bad.at(name));
    const std::string copy = model.output("damaged");
    std::filesystem::remove_all(copy);
    write_test_model(copy, bad, read_file(folder + "/config.json").value());
    return problems_of(check(model, copy));
  };
  const auto flip = [](TestTensor& tensor) { tensor.bytes[5] ^= std::byte{1}; };
  const auto twice = [](TestTensor& tensor) {
    float value = 0;
    std::memcpy(&value, tensor.bytes.data(), 4);
    value *= 2;
    std::memcpy(tensor.bytes.data(), &value, 4);
  };
  EXPECT_NE(damage(expert + "up_proj.weight", flip).find(expert + "up_proj.weight: 1 of 4096"),
            std::string::npos);
  EXPECT_NE(damage(expert + "up_proj.weight_scale_2", twice).find("loaders fuse the two"),
            std::string::npos);
  EXPECT_NE(damage(expert + "up_proj.input_scale", twice).find("up_proj.input_scale"),
            std::string::npos);
  EXPECT_NE(damage(expert + "down_proj.input_scale", twice).find("expert 2 has other input scales"),
            std::string::npos);
  EXPECT_NE(damage(expert + "down_proj.weight_scale",
                   [](TestTensor& tensor) { tensor.bytes[0] = std::byte{0}; })
                .find("scale 0 that are not zero"),
            std::string::npos);
  EXPECT_NE(damage("lm_head.weight", flip).find("lm_head.weight: is not the source's"),
            std::string::npos);
  EXPECT_NE(damage("model.visual.merger.norm.weight", flip).find("model.visual.merger.norm.weight"),
            std::string::npos);
}

}  // namespace
}  // namespace nibble::quantize
