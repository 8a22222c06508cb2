// Tests for the export as a whole: refusals, zero tensors, resuming. That every byte is ModelOpt's
// is golden_runner's business.
#include "quantize/exporter.h"

#include "base/file.h"
#include "formats/linear_weight.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <set>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;

const std::string kLayer = "model.language_model.layers.";

std::vector<std::string> names_in(const std::string& folder) {
  return list_directory(folder).value();
}

// Every file of a folder with its bytes.
std::map<std::string, std::string> files_of(const std::string& folder) {
  std::map<std::string, std::string> out;
  for (const std::string& name : names_in(folder)) {
    out[name] = read_file(folder + "/" + name).value();
  }
  return out;
}

uint32_t scalar_bits(const TestTensor& tensor) {
  uint32_t bits = 0;
  std::memcpy(&bits, tensor.bytes.data(), sizeof bits);
  return bits;
}

// Stops the export after so many calls.
class StopAfter {
 public:
  explicit StopAfter(int calls) : calls_(calls) {}
  ExportProgress callback() {
    return [this](const ExportPosition&) { return calls_-- > 0; };
  }

 private:
  int calls_;
};

void expect_parts(const std::string& message, std::initializer_list<std::string> parts) {
  for (const std::string& part : parts) {
    EXPECT_NE(message.find(part), std::string::npos) << part << "\nin\n" << message;
  }
}

TEST(Exporter, ReportAddsUp) {
  TestModel model;
  const auto report = model.run();
  ASSERT_TRUE(report.ok()) << report.error().message;
  int64_t bytes = 0;
  for (const auto& [name, tensor] : read_tensors(model.output("export"))) {
    bytes += static_cast<int64_t>(tensor.bytes.size());
  }
  EXPECT_EQ(report.value().destination_bytes, bytes);
  EXPECT_EQ(report.value().source_bytes, static_cast<int64_t>(model.checkpoint().total_bytes()));
  // 4 layers of 8 experts of 3 * 64 * 128 and a shared one of 3 * 80 * 128.
  const int64_t weights = 4 * (8 * 3 * 64 * 128 + 3 * 80 * 128);
  EXPECT_EQ(report.value().quantized_weights, weights);
  EXPECT_EQ(report.value().quantized_bytes, weights * 9 / 16 + 4 * 9 * 3 * 8);
}

TEST(Exporter, ResultOpensAsAModel) {
  TestModel model;
  ASSERT_TRUE(model.run().ok());
  const auto checkpoint = formats::Checkpoint::open(model.output("export"));
  ASSERT_TRUE(checkpoint.ok());
  const auto config = formats::load_model_config(model.output("export"));
  ASSERT_TRUE(config.ok()) << config.error().message;
  const auto source = model::CheckpointSource::open(checkpoint.value(), config.value());
  ASSERT_TRUE(source.ok()) << source.error().message;
  EXPECT_EQ(source.value()->expert_format(0, false), formats::WeightFormat::nvfp4);
  EXPECT_EQ(source.value()->expert_format(0, true), formats::WeightFormat::nvfp4);
  EXPECT_NE(source.value()->kv_scales(1).value().first, 1.0f);
}

TEST(Exporter, AllZeroMatricesKeepUsableScales) {
  TestModel model([](TestTensors& tensors, std::string&) {
    for (const char* name : {"gate_proj", "up_proj"}) {
      auto& bytes = tensors[kLayer + "0.mlp.shared_expert." + name + ".weight"].bytes;
      std::fill(bytes.begin(), bytes.end(), std::byte{0});
    }
  });
  ActivationMaxima maxima;
  const ActivationMaxima golden = TestModel::golden_maxima();
  for (const auto& [name, amax] : golden.values()) {
    if (name.find("weight_quantizer") == std::string::npos) maxima.raise(name, amax);
  }
  ASSERT_TRUE(model.run(model.job(), maxima, uninterrupted).ok());
  const TestTensors ours = read_tensors(model.output("export"));
  for (const char* name : {"gate_proj", "up_proj"}) {
    const std::string stem = kLayer + "0.mlp.shared_expert." + name;
    EXPECT_EQ(scalar_bits(ours.at(stem + ".weight_scale_2")), 0x39C30C31u);
    for (const std::byte b : ours.at(stem + ".weight_scale").bytes) {
      ASSERT_EQ(b, std::byte{0x38});
    }
    for (const std::byte b : ours.at(stem + ".weight").bytes) ASSERT_EQ(b, std::byte{0});
  }
  fs::remove_all(model.output("export"));
  ASSERT_TRUE(model.run(model.job("modelopt-0.47-cuda"), maxima, uninterrupted).ok());
  const TestTensors theirs = read_tensors(model.output("export"));
  const std::string stem = kLayer + "0.mlp.shared_expert.gate_proj";
  EXPECT_EQ(scalar_bits(theirs.at(stem + ".weight_scale_2")), 0u);
  EXPECT_EQ(theirs.at(stem + ".weight_scale").bytes[0], std::byte{0x7F});
  EXPECT_EQ(theirs.at(stem + ".weight").bytes[0], std::byte{0x77});
}

TEST(Exporter, WeightsThatAreNotFiniteAreAllNamed) {
  TestModel model([](TestTensors& tensors, std::string&) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    tensors[kLayer + "1.mlp.experts.gate_up_proj"].set_bf16(3 * 128 * 128 + 5, nan);
    tensors[kLayer + "2.mlp.shared_expert.down_proj.weight"].set_bf16(7, -INFINITY);
    tensors["lm_head.weight"].set_bf16(0, nan);
    tensors["lm_head.weight"].set_bf16(1, INFINITY);
    tensors["model.visual.merger.norm.weight"].set_bf16(2, nan);
  });
  const auto report = model.run();
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::corrupt);
  expect_parts(report.error().message,
               {"4 problems", kLayer + "1.mlp.experts.gate_up_proj, expert 3: 1 of its values",
                kLayer + "2.mlp.shared_expert.down_proj.weight: 1 of", "lm_head.weight: 2 of",
                "model.visual.merger.norm.weight: 1 of"});
  EXPECT_FALSE(fs::exists(model.output("export")));
  EXPECT_FALSE(fs::exists(model.output("export.partial")));
}

TEST(Exporter, MissingAndBadMaximaAreAllNamed) {
  TestModel model;
  ActivationMaxima maxima;
  const std::set<std::string> left_out = {kLayer + "0.mlp.experts.down_proj_input_quantizer",
                                          kLayer + "3.self_attn.v_bmm_quantizer"};
  const ActivationMaxima golden = TestModel::golden_maxima();
  for (const auto& [name, amax] : golden.values()) {
    if (!left_out.contains(name)) maxima.raise(name, amax);
  }
  maxima.raise(kLayer + "2.mlp.experts.gate_up_proj_input_quantizer", INFINITY);
  const auto report = model.run(model.job(), maxima, uninterrupted);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::invalid_argument);
  expect_parts(report.error().message,
               {"3 problems", kLayer + "0.mlp.experts.down_proj_input_quantizer: missing",
                kLayer + "3.self_attn.v_bmm_quantizer: missing",
                kLayer + "2.mlp.experts.gate_up_proj_input_quantizer: inf"});
}

TEST(Exporter, ColumnsMustBeMultiplesOfSixteen) {
  TestModel model([](TestTensors& tensors, std::string& config) {
    const size_t at = config.find("\"shared_expert_intermediate_size\": 80");
    ASSERT_NE(at, std::string::npos);
    config.replace(at, 37, "\"shared_expert_intermediate_size\": 72");
    for (int layer = 0; layer < 4; ++layer) {
      const std::string stem = kLayer + std::to_string(layer) + ".mlp.shared_expert.";
      for (const char* name : {"gate_proj", "up_proj"}) {
        tensors[stem + name + ".weight"].shape = Shape{72, 128};
        tensors[stem + name + ".weight"].bytes.resize(72 * 128 * 2);
      }
      tensors[stem + "down_proj.weight"].shape = Shape{128, 72};
      tensors[stem + "down_proj.weight"].bytes.resize(72 * 128 * 2);
    }
  });
  const auto report = model.run();
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::invalid_argument);
  expect_parts(report.error().message,
               {"4 problems", "0.mlp.shared_expert.down_proj: rows of 72", "multiple of 16"});
}

TEST(Exporter, QuantizedSourceIsRefused) {
  TestModel model;
  ASSERT_TRUE(model.run().ok());
  const auto checkpoint = formats::Checkpoint::open(model.output("export"));
  const auto config = formats::load_model_config(model.output("export"));
  const auto source = model::CheckpointSource::open(checkpoint.value(), config.value());
  ASSERT_TRUE(source.ok());
  const auto checked = check_quantizable(*source.value(), model.job());
  ASSERT_FALSE(checked.ok());
  expect_parts(checked.error().message,
               {"8 problems", "layer 3: shared expert: already stored as"});
}

TEST(Exporter, DraftLayerIsCopiedByteForByte) {
  TestModel model([](TestTensors& tensors, std::string&) {
    TestTensor draft{DType::f32, Shape{3}, std::vector<std::byte>(12, std::byte{0x12})};
    tensors["mtp.norm.weight"] = draft;
  });
  ASSERT_TRUE(model.run().ok());
  const TestTensors written = read_tensors(model.output("export"));
  EXPECT_EQ(written.at("mtp.norm.weight").dtype, DType::f32);
  EXPECT_EQ(written.at("mtp.norm.weight").bytes, std::vector<std::byte>(12, std::byte{0x12}));
  EXPECT_EQ(written.at(kLayer + "0.linear_attn.A_log").dtype, DType::bf16);
}

TEST(Exporter, InterruptedAnywhereItGoesOnToTheSameBytes) {
  TestModel model;
  ExportJob job = model.job();
  job.max_shard_bytes = 200'000;  // several shards, so that some are finished
  const ActivationMaxima maxima = TestModel::golden_maxima();
  ASSERT_TRUE(model.run(job, maxima, uninterrupted).ok());
  const auto whole = files_of(model.output("export"));
  ASSERT_GT(whole.size(), 5u);
  bool continued_shards = false;
  for (const int calls : {0, 1, 40, 150, 300, 480}) {
    SCOPED_TRACE(calls);
    fs::remove_all(model.output("export"));
    const auto stopped = model.run(job, maxima, StopAfter(calls).callback());
    ASSERT_FALSE(stopped.ok());
    EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
    EXPECT_FALSE(fs::exists(model.output("export")));
    for (const std::string& name : names_in(model.output("export.partial"))) {
      continued_shards |= name.ends_with(".safetensors");
    }
    ASSERT_TRUE(model.run(job, maxima, uninterrupted).ok());
    EXPECT_EQ(files_of(model.output("export")), whole);
  }
  EXPECT_TRUE(continued_shards);
}

TEST(Exporter, FinishedShardsAreNotWrittenAgain) {
  TestModel model;
  ExportJob job = model.job();
  job.max_shard_bytes = 200'000;
  const ActivationMaxima maxima = TestModel::golden_maxima();
  ASSERT_FALSE(model.run(job, maxima, StopAfter(300).callback()).ok());
  std::map<std::string, fs::file_time_type> before;
  for (const auto& entry : fs::directory_iterator(model.output("export.partial"))) {
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".safetensors")) continue;
    fs::last_write_time(entry.path(), fs::file_time_type::clock::now() - std::chrono::hours(1));
    before[name] = fs::last_write_time(entry.path());
  }
  ASSERT_FALSE(before.empty());
  ASSERT_TRUE(model.run(job, maxima, uninterrupted).ok());
  for (const auto& [name, time] : before) {
    EXPECT_EQ(fs::last_write_time(model.output("export") + "/" + name), time) << name;
  }
}

TEST(Exporter, AnotherJobStartsAnew) {
  TestModel model;
  ExportJob job = model.job("modelopt-0.44-cpu");
  job.max_shard_bytes = 200'000;
  const ActivationMaxima maxima = TestModel::golden_maxima();
  ASSERT_FALSE(model.run(job, maxima, StopAfter(300).callback()).ok());
  ExportJob changed = model.job("modelopt-0.47-cuda");
  changed.max_shard_bytes = 200'000;
  ASSERT_TRUE(model.run(changed, maxima, uninterrupted).ok());
  const auto after_other = files_of(model.output("export"));
  fs::remove_all(model.output("export"));
  ASSERT_TRUE(model.run(changed, maxima, uninterrupted).ok());
  EXPECT_EQ(files_of(model.output("export")), after_other);
}

TEST(Exporter, ExistingDestinationIsRefused) {
  TestModel model;
  ASSERT_TRUE(model.run().ok());
  const auto before = files_of(model.output("export"));
  const auto again = model.run();
  ASSERT_FALSE(again.ok());
  EXPECT_EQ(again.error().code, ErrorCode::invalid_argument);
  expect_parts(again.error().message, {"exists already", "--overwrite"});
  EXPECT_EQ(files_of(model.output("export")), before);
}

}  // namespace
}  // namespace nibble::quantize
