// Tests for second moments: sums, the prior of routed experts, files, and what a calibration
// gathers.
#include "quantize/moments.h"

#include "quantize/member_table.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"
#include "tests/support/run_calibration.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

namespace nibble::quantize {
namespace {

using model::Member;

std::vector<float> ramp(float first) {
  std::vector<float> x(32);
  for (size_t i = 0; i < x.size(); ++i) x[i] = first + static_cast<float>(i);
  return x;
}

std::map<int, LayerMoments> gather(TestModel& model) {
  const auto tokens = read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json");
  CalibrationRequest request;
  request.sequences = tokens.value();
  request.gathered.moments = true;
  request.scratch = model.output("");
  auto result = calibrate(model.device(), model.source(), request);
  EXPECT_TRUE(result.ok());
  return std::move(result.value().moments);
}

TEST(BlockMoments, SumsOuterProductsOfBlocks) {
  BlockMoments moments(32);
  moments.add(ramp(1), 2.0);
  moments.add(ramp(-3), 0.5);
  EXPECT_DOUBLE_EQ(moments.weight(), 2.5);
  const auto wanted = [](size_t i, size_t j) {
    return 2.0f * (1.0f + static_cast<float>(i)) * (1.0f + static_cast<float>(j)) +
           0.5f * (static_cast<float>(i) - 3.0f) * (static_cast<float>(j) - 3.0f);
  };
  for (size_t i = 0; i < 16; ++i) {
    for (size_t j = 0; j < 16; ++j) {
      EXPECT_FLOAT_EQ(moments.sums()[i * 16 + j], wanted(i, j));
      EXPECT_FLOAT_EQ(moments.sums()[256 + i * 16 + j], wanted(16 + i, 16 + j));
    }
  }
}

LayerMoments small_layer() {
  LayerMoments layer;
  layer.mlp_in = BlockMoments(32);
  layer.experts_down = BlockMoments(32);
  layer.mlp_in.add(ramp(1), 1);
  layer.mlp_in.add(ramp(1), 1);
  layer.expert_in.assign(2, BlockMoments(32));
  layer.expert_down.assign(2, BlockMoments(32));
  layer.expert_in[1].add(ramp(5), 64);
  return layer;
}

TEST(LayerMoments, ExpertsAreDrawnTowardsTheirLayer) {
  const LayerMoments layer = small_layer();
  const std::vector<float> shared = layer.mean(Member::shared_gate, -1);
  ASSERT_EQ(shared.size(), 512u);
  EXPECT_FLOAT_EQ(shared[1], 2.0f);  // x0 x1 of the ramp from 1
  EXPECT_GT(shared[0], 1.0f);  // its square, damped upwards
  EXPECT_LT(shared[0], 3.0f);
  // Nothing seen: the layer's. 64 tokens' worth of its own against 128 of the layer's.
  EXPECT_EQ(layer.mean(Member::expert_gate, 0), shared);
  EXPECT_FLOAT_EQ(layer.mean(Member::expert_up, 1)[1], (64 * 30.0f + 128 * 2.0f) / 192);
  EXPECT_TRUE(layer.mean(Member::expert_down, 0).empty());
}

TEST(LayerMoments, FileGoesRound) {
  const TempFolder folder;
  const std::string path = folder.file("moments");
  const LayerMoments layer = small_layer();
  auto writer = formats::SafetensorsWriter::create(path, layer.specs("layer.3."));
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(layer.append(writer.value(), "layer.3.").ok());
  ASSERT_TRUE(writer.value().finish().ok());
  const auto file = formats::SafetensorsReader::open(path);
  ASSERT_TRUE(file.ok());
  const auto again = LayerMoments::read(file.value(), "layer.3.");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(again.value().expert_in.size(), 2u);
  EXPECT_EQ(again.value().expert_in[1].sums(), layer.expert_in[1].sums());
  EXPECT_EQ(again.value().mlp_in.weight(), 2.0);
  EXPECT_EQ(again.value().mixer_in.columns(), 0);
  EXPECT_EQ(again.value().mean(Member::expert_up, 1), layer.mean(Member::expert_up, 1));
  EXPECT_EQ(LayerMoments::read(file.value(), "layer.4.").value().mlp_in.columns(), 0);
}

TEST(Calibration, GathersMomentsOfEveryLayerAndTheHead) {
  TestModel model;
  const std::map<int, LayerMoments> layers = gather(model);
  ASSERT_EQ(layers.size(), 5u);
  ASSERT_TRUE(layers.contains(kOutsideLayers));
  const LayerMoments& first = layers.at(0);
  // Every token goes to two of eight experts whose squared weights sum to at most 1.
  double routed = 0;
  for (const BlockMoments& expert : first.expert_in) routed += expert.weight();
  EXPECT_GT(routed, 0.49 * first.mlp_in.weight());
  EXPECT_LT(routed, first.mlp_in.weight());
  EXPECT_EQ(first.expert_in[5].weight(), 0);  // the golden source's dead expert
  EXPECT_EQ(first.mean(Member::expert_gate, 5), first.mean(Member::shared_gate, -1));
  EXPECT_EQ(layers.at(kOutsideLayers).mixer_in.weight(), first.mlp_in.weight());
  EXPECT_EQ(layers.at(1).mixer_out.columns(), 128);
}

}  // namespace
}  // namespace nibble::quantize
