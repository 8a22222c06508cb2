// Tests for verify: every recipe's own output passes; each kind of damage is found and named.
#include "quantize/verify.h"

#include "base/file.h"
#include "base/json.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"
#include "tests/support/run_calibration.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstring>
#include <filesystem>

namespace nibble::quantize {
namespace {

const std::string kLayer = "model.language_model.layers.";

// Our own maxima: the golden tables lack what recipes of ours need.
ActivationMaxima own_maxima(TestModel& model) {
  const auto tokens = read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json");
  CalibrationRequest request;
  request.sequences = tokens.value();
  request.scratch = model.output("");
  return calibrate(model.device(), model.source(), request).value().maxima;
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

VerifyReport check(TestModel& model, const std::string& folder,
                   CodeRule codes = CodeRule::nearest) {
  const Opened quantized(folder);
  auto report = verify(model.device(), {model.checkpoint(), model.source()},
                       {*quantized.checkpoint, *quantized.source}, codes,
                       [](int64_t, int64_t) { return true; });
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

// What verify, or opening the checkpoint, says of a changed copy of an export.
class DamageTest : public testing::Test {
 protected:
  using Edit = std::function<void(TestTensors&)>;

  void make(const std::string& recipe) {
    ExportJob job = model_.job();
    job.recipe = Recipe::find(recipe).value();
    job.scales = job.recipe.scales;
    const auto report = model_.run(job, own_maxima(model_), uninterrupted);
    ASSERT_TRUE(report.ok()) << report.error().message;
    good_ = read_tensors(model_.output("export"));
    config_ = read_file(model_.output("export") + "/config.json").value();
  }

  std::string problems(const Edit& edit, CodeRule codes = CodeRule::nearest) {
    TestTensors bad = good_;
    edit(bad);
    const std::string copy = model_.output("damaged");
    std::filesystem::remove_all(copy);
    write_test_model(copy, bad, config_);
    const formats::Checkpoint checkpoint = std::move(formats::Checkpoint::open(copy)).value();
    const auto source =
        model::CheckpointSource::open(checkpoint, formats::load_model_config(copy).value());
    return source.ok() ? problems_of(check(model_, copy, codes)) : source.error().message;
  }

  /// Expects `wanted` to be said when the tensor is changed.
  void expect(const std::string& name, const std::function<void(TestTensor&)>& edit,
              const std::string& wanted) {
    const std::string said = problems([&](TestTensors& tensors) { edit(tensors.at(name)); });
    EXPECT_NE(said.find(wanted), std::string::npos) << name << ": " << said;
  }
  void expect_missing(const std::string& name, const std::string& wanted) {
    const std::string said =
        problems([&](TestTensors& tensors) { ASSERT_EQ(tensors.erase(name), 1u) << name; });
    EXPECT_NE(said.find(wanted), std::string::npos) << name << ": " << said;
  }

  static void flip(TestTensor& tensor) { tensor.bytes[5] ^= std::byte{1}; }
  static void twice(TestTensor& tensor) {
    float value = 0;
    std::memcpy(&value, tensor.bytes.data(), 4);
    value *= 2;
    std::memcpy(tensor.bytes.data(), &value, 4);
  }

  TestModel model_;
  TestTensors good_;
  std::string config_;
};

TEST_F(DamageTest, IsFoundAndNamed) {
  make("nvfp4-mlp");
  const std::string expert = kLayer + "1.mlp.experts.2.";
  EXPECT_EQ(problems([](TestTensors&) {}), "");
  expect(expert + "up_proj.weight", flip, expert + "up_proj.weight: 1 of 4096");
  expect(expert + "up_proj.weight_scale_2", twice, "loaders fuse the two");
  expect(expert + "up_proj.input_scale", twice, "up_proj.input_scale");
  expect(expert + "down_proj.input_scale", twice, "expert 2 has other input scales");
  expect(expert + "down_proj.weight_scale_2", twice, expert + "down_proj.weight: ");
  expect(
      expert + "down_proj.weight_scale", [](TestTensor& t) { t.bytes[0] = std::byte{0}; },
      "scale 0 that are not zero");
  expect(
      expert + "down_proj.weight_scale", [](TestTensor& t) { t.bytes[0] = std::byte{0x7F}; },
      expert + "down_proj.weight_scale: holds NaN");
  expect("lm_head.weight", flip, "lm_head.weight: is not the source's");
  expect("model.visual.merger.norm.weight", flip, "model.visual.merger.norm.weight");
  expect(kLayer + "1.mlp.gate.weight", flip, kLayer + "1.mlp.gate.weight: is not the source's");
}

// Codes moved by error feedback may lie a step away, but not a sign.
TEST_F(DamageTest, FeedbackIsAllowedWhereItIsDeclared) {
  make("nvfp4-mlp");
  const std::string name = kLayer + "1.mlp.experts.2.up_proj.weight";
  const auto step = [&](TestTensors& t) {
    auto& bytes = t.at(name).bytes;
    for (size_t i = 0; i < bytes.size(); i += 8) bytes[i] ^= std::byte{1};
  };
  EXPECT_NE(problems(step), "");
  EXPECT_EQ(problems(step, CodeRule::feedback), "");
  const std::string said = problems(
      [&](TestTensors& t) {
        for (std::byte& byte : t.at(name).bytes) byte ^= std::byte{8};
      },
      CodeRule::feedback);
  EXPECT_NE(said.find(name + ": "), std::string::npos) << said;
  EXPECT_NE(said.find("scales farther"), std::string::npos) << said;
}

// Every bit of a block scale; the largest step away still leaves a block whose codes do not fit.
TEST_F(DamageTest, EveryScaleBitIsSeen) {
  make("nvfp4-mlp");
  const std::string stem = kLayer + "0.mlp.experts.1.gate_proj";
  for (size_t bit = 0; bit < 7; ++bit) {
    expect(
        stem + ".weight_scale",
        [&](TestTensor& t) { t.bytes[9 * bit] ^= static_cast<std::byte>(1 << bit); }, stem);
  }
}

TEST_F(DamageTest, MissingTensorsAreNamed) {
  make("nvfp4-mlp");
  const std::string expert = kLayer + "1.mlp.experts.2.";
  for (const char* ending :
       {"up_proj.weight", "gate_proj.weight_scale", "down_proj.weight_scale_2"}) {
    expect_missing(expert + ending, expert + std::string(ending).substr(0, 7));
  }
  expect_missing(expert + "up_proj.input_scale", expert + "up_proj.input_scale");
  expect_missing(kLayer + "1.mlp.gate.weight", kLayer + "1.mlp.gate.weight: missing");
  expect_missing("model.visual.merger.norm.weight",
                 "model.visual.merger.norm.weight: in the source, but missing here");
  const std::string said = problems([](TestTensors& tensors) {
    tensors["model.visual.extra"] = tensors.at("model.visual.merger.norm.weight");
  });
  EXPECT_NE(said.find("model.visual.extra: not in the source"), std::string::npos) << said;
}

TEST_F(DamageTest, MixedFilesToo) {
  make("nvfp4-mlp-fp8-dense");
  const std::string qkv = kLayer + "0.linear_attn.in_proj_qkv";
  EXPECT_EQ(problems([](TestTensors&) {}), "");
  expect(qkv + ".weight", flip, qkv + ".weight: 1 of ");
  expect(qkv + ".weight_scale", twice, qkv + ".weight: ");
  expect("lm_head.weight", flip, "lm_head.weight: 1 of ");
  expect_missing(qkv + ".weight_scale", qkv);
}

// compressed-tensors' nvfp4-pack-quantized: other names, reciprocals, shape [1].
void to_packed(TestTensors& tensors, std::string& config) {
  TestTensors out;
  for (const auto& [name, tensor] : tensors) {
    const auto stem = [&whole = name](const std::string& ending) {
      return whole.substr(0, whole.size() - ending.size());
    };
    TestTensor changed = tensor;
    std::string renamed = name;
    const auto invert = [&](const std::string& to) {
      float value = 0;
      std::memcpy(&value, changed.bytes.data(), 4);
      value = 1 / value;
      std::memcpy(changed.bytes.data(), &value, 4);
      changed.shape = Shape{1};
      renamed = to;
    };
    if (name.ends_with(".weight_scale_2")) invert(stem(".weight_scale_2") + ".weight_global_scale");
    if (name.ends_with(".input_scale")) invert(stem(".input_scale") + ".input_global_scale");
    if (name.ends_with(".weight") && tensor.dtype == DType::u8) {
      renamed = stem(".weight") + ".weight_packed";
    }
    if (name.ends_with(".k_proj.k_scale")) renamed = stem(".k_proj.k_scale") + ".k_scale";
    if (name.ends_with(".v_proj.v_scale")) renamed = stem(".v_proj.v_scale") + ".v_scale";
    out[renamed] = changed;
  }
  tensors = std::move(out);
  auto json = parse_json(config, "config.json").value();
  json["quantization_config"] =
      parse_json(R"({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
        "config_groups": {"group_0": {"input_activations": {"num_bits": 4}, "targets": ["Linear"]}},
        "ignore": ["re:.*lm_head"], "kv_cache_scheme": {"num_bits": 8, "type": "float",
        "strategy": "tensor", "dynamic": false, "symmetric": true}})",
                 "test")
          .value();
  config = json.dump();
}

TEST_F(DamageTest, CompressedTensorsToo) {
  make("nvfp4-mlp");
  to_packed(good_, config_);
  const std::string expert = kLayer + "1.mlp.experts.2.";
  ASSERT_EQ(good_.count(expert + "up_proj.weight_packed"), 1u);
  EXPECT_EQ(problems([](TestTensors&) {}), "");
  expect(expert + "up_proj.weight_packed", flip, expert + "up_proj.weight_packed: 1 of 4096");
  expect(expert + "up_proj.weight_global_scale", twice, expert + "up_proj.weight_global_scale: ");
  expect(expert + "up_proj.input_global_scale", twice, expert + "up_proj.input_global_scale: ");
  expect(expert + "down_proj.weight_global_scale", twice, expert + "down_proj.weight_global_scale");
  expect_missing(expert + "down_proj.weight_global_scale", "weight_global_scale missing");
  expect_missing(expert + "down_proj.weight_packed", expert + "down_proj");
  expect("lm_head.weight", flip, "lm_head.weight: is not the source's");
  // Experts with input scales of their own are this dialect's habit.
  EXPECT_EQ(problems([&](TestTensors& t) { twice(t.at(expert + "down_proj.input_global_scale")); }),
            "");
}

// Its code of -0 and codes at a tie of the other division are as near as ours.
TEST_F(DamageTest, CompressedTensorsCodesOfEqualValue) {
  make("nvfp4-mlp");
  to_packed(good_, config_);
  int changed = 0;
  const std::string said = problems([&](TestTensors& tensors) {
    for (std::byte& byte : tensors.at(kLayer + "1.mlp.experts.2.up_proj.weight_packed").bytes) {
      if ((byte & std::byte{15}) != std::byte{0}) continue;
      byte |= std::byte{8};
      ++changed;
    }
  });
  EXPECT_GT(changed, 0);
  EXPECT_EQ(said, "");
}

}  // namespace
}  // namespace nibble::quantize
