// Tests for calibration: coverage, refusals, and the same maxima from the double reference device
// at another geometry. ModelOpt's own maxima are golden_runner's business.
#include "quantize/calibration.h"

#include "device/reference/reference_device.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"
#include "tests/support/run_calibration.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble::quantize {
namespace {

std::vector<std::vector<int32_t>> golden_tokens() {
  return read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json").value();
}

CalibrationRequest request(const TestModel& model, std::vector<std::vector<int32_t>> sequences) {
  CalibrationRequest out;
  out.sequences = std::move(sequences);
  out.scratch = model.output("");
  return out;
}

Result<CalibrationResult> run(TestModel& model, std::vector<std::vector<int32_t>> sequences) {
  return calibrate(model.device(), model.source(), request(model, std::move(sequences)));
}

TEST(Calibration, CountsExperts) {
  TestModel model;
  const auto result = run(model, golden_tokens());
  ASSERT_TRUE(result.ok()) << result.error().message;
  // The golden source has one expert without tokens.
  EXPECT_EQ(result.value().experts_seen, (std::vector<int64_t>{7, 8, 8, 8}));
  // Every layer has five inputs of its experts; two have four projections and K and V, two have
  // five projections; and there is the head.
  EXPECT_EQ(result.value().maxima.values().size(), 4u * 5 + 2 * (4 + 2) + 2 * 5 + 1);
}

TEST(Calibration, MaximaDoNotDependOnTheOrderOfSequences) {
  TestModel model;
  auto sequences = golden_tokens();
  const auto forward = run(model, sequences);
  std::reverse(sequences.begin(), sequences.end());
  const auto backward = run(model, sequences);
  ASSERT_TRUE(forward.ok() && backward.ok());
  EXPECT_EQ(forward.value().maxima.values(), backward.value().maxima.values());
}

// The reference device computes at `exact`, so the two are near, not equal: BF16 inputs.
TEST(Calibration, AgreesWithTheDoubleReferenceAtExactArithmetic) {
  TestModel model;
  ThreadPool pool(1, {});
  const auto reference = device::make_reference_device(device::Arithmetic::exact, pool);
  auto sequences = golden_tokens();
  sequences.resize(3);
  const auto wanted = calibrate(*reference, model.source(), request(model, sequences));
  const auto found = run(model, sequences);
  ASSERT_TRUE(wanted.ok() && found.ok());
  ASSERT_EQ(found.value().maxima.values().size(), wanted.value().maxima.values().size());
  for (const auto& [name, amax] : wanted.value().maxima.values()) {
    EXPECT_NEAR(*found.value().maxima.find(name), amax, 0.02 * amax) << name;
  }
}

TEST(Calibration, TokenOutsideTheVocabulary) {
  TestModel model;
  for (const int32_t token : {-1, 512}) {
    const auto result = run(model, {{1, 2}, {3, token}});
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(result.error().message.find("sequence 1: token id " + std::to_string(token)),
              std::string::npos)
        << result.error().message;
  }
}

TEST(Calibration, StopsWhenAsked) {
  TestModel model;
  int calls = 20;  // inside the first layer
  const auto calibrator =
      Calibrator::open(model.device(), model.source(), request(model, golden_tokens()),
                       [&](int64_t, int64_t) { return --calls > 0; });
  ASSERT_TRUE(calibrator.ok());
  const auto result = calibrator.value()->layer(0);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::cancelled);
}

std::unique_ptr<Calibrator> open_calibrator(TestModel& model, CalibrationRequest wanted) {
  auto opened = Calibrator::open(model.device(), model.source(), std::move(wanted),
                                 [](int64_t, int64_t) { return true; });
  NIBBLE_CHECK(opened.ok(), "calibrator");
  return std::move(opened).value();
}

TEST(Calibration, ALayerCanBeRunAgainFromWhatTheLastOneLeft) {
  TestModel model;
  const auto whole = run(model, golden_tokens());
  ASSERT_TRUE(whole.ok());
  ActivationMaxima maxima;
  for (const int layer : {0, 1, 2, 3, -1}) {
    // What a run killed at the end of this layer, or inside the next, goes on from.
    for (int again = 0; again < 2; ++again) {
      const auto found = open_calibrator(model, request(model, golden_tokens()))->layer(layer);
      ASSERT_TRUE(found.ok()) << found.error().message;
      maxima.raise(found.value().maxima);
    }
  }
  EXPECT_EQ(maxima.values(), whole.value().maxima.values());
}

TEST(Calibration, MissingRowsAreNamed) {
  TestModel model;
  const auto found = open_calibrator(model, request(model, golden_tokens()))->layer(2);
  ASSERT_FALSE(found.ok());
  EXPECT_NE(found.error().message.find("hidden-0"), std::string::npos) << found.error().message;
}

TEST(Calibration, ForcedExpertsRaiseTheirMaximaAndNothingElse) {
  TestModel model;
  CalibrationRequest forced = request(model, golden_tokens());
  forced.force_all_experts = true;
  const auto all = calibrate(model.device(), model.source(), forced);
  const auto routed = run(model, golden_tokens());
  ASSERT_TRUE(all.ok() && routed.ok());
  EXPECT_EQ(all.value().experts_seen, routed.value().experts_seen);
  int raised = 0;
  for (const auto& [name, amax] : routed.value().maxima.values()) {
    const float found = *all.value().maxima.find(name);
    if (name.ends_with("experts.down_proj_input_quantizer")) {
      EXPECT_GE(found, amax) << name;
      raised += found > amax;
    } else {
      EXPECT_EQ(found, amax) << name;
    }
  }
  EXPECT_GT(raised, 0);
}

// The rows kept for a matrix, as one sum of g x x^T over the blocks on the diagonal, are its
// moments.
TEST(Calibration, InputsAreWhatTheMomentsWereMadeOf) {
  TestModel model;
  CalibrationRequest wanted = request(model, golden_tokens());
  wanted.gathered = {true, true, false};
  const auto calibrator = open_calibrator(model, wanted);
  for (const int layer : {0, 1, 2, 3, -1}) {
    const auto found = calibrator->layer(layer);
    ASSERT_TRUE(found.ok()) << found.error().message;
    const LayerMoments& moments = found.value().moments;
    const auto check = [&](model::Member member, int64_t expert, const BlockMoments& expected) {
      BlockMoments sums(expected.columns());
      int64_t rows = 0;
      const auto add = [&](const InputChunk& chunk) -> Result<void> {
        const auto columns = static_cast<size_t>(expected.columns());
        EXPECT_EQ(chunk.rows.size(), chunk.weights.size() * columns);
        for (size_t i = 0; i < chunk.weights.size(); ++i, ++rows) {
          sums.add(chunk.rows.subspan(i * columns, columns), chunk.weights[i]);
        }
        return {};
      };
      ASSERT_TRUE(found.value().inputs.for_each_chunk(member, expert, add).ok());
      EXPECT_EQ(rows, found.value().inputs.rows(member, expert));
      EXPECT_NEAR(sums.weight(), expected.weight(), 1e-5 * expected.weight());
      for (size_t i = 0; i < sums.sums().size(); ++i) {
        ASSERT_NEAR(sums.sums()[i], expected.sums()[i],
                    1e-5 * std::fabs(expected.sums()[i]) + 1e-6);
      }
    };
    if (layer < 0) {
      check(model::Member::lm_head, 0, moments.mixer_in);
      continue;
    }
    const bool full = model.source().config().layer_types[static_cast<size_t>(layer)] ==
                      formats::LayerType::full_attention;
    check(full ? model::Member::q_proj : model::Member::in_proj_qkv, 0, moments.mixer_in);
    check(full ? model::Member::o_proj : model::Member::out_proj, 0, moments.mixer_out);
    check(model::Member::shared_up, 0, moments.mlp_in);
    check(model::Member::shared_down, 0, moments.shared_down);
    for (int64_t e = 0; e < 8; ++e) {
      check(model::Member::expert_up, e, moments.expert_in[static_cast<size_t>(e)]);
      check(model::Member::expert_down, e, moments.expert_down[static_cast<size_t>(e)]);
    }
  }
}

TEST(Calibration, NoiseCountsForInputsOnly) {
  TestModel model;
  CalibrationRequest wanted = request(model, golden_tokens());
  wanted.gathered = {true, true, false};
  const auto plain = open_calibrator(model, wanted)->layer(0).value();
  wanted.gathered.noise = true;
  const auto noisy = open_calibrator(model, wanted)->layer(0).value();
  EXPECT_EQ(noisy.maxima.values(), plain.maxima.values());
  EXPECT_EQ(noisy.moments.mlp_in.sums(), plain.moments.mlp_in.sums());
  EXPECT_EQ(noisy.experts_seen, plain.experts_seen);
  const int64_t tokens = plain.inputs.rows(model::Member::shared_up, 0);
  EXPECT_EQ(noisy.inputs.rows(model::Member::shared_up, 0), 2 * tokens);
  int64_t row = 0;
  const auto check = [&](const InputChunk& chunk) -> Result<void> {
    for (const float weight : chunk.weights) {
      EXPECT_EQ(weight, row++ < tokens ? 1.0f : kNoiseWeight);
    }
    return {};
  };
  ASSERT_TRUE(noisy.inputs.for_each_chunk(model::Member::shared_down, 0, check).ok());
  // All experts' weights of a token add up to less than 1, and they count squared.
  const auto weights_of = [](const LayerInputs& inputs) {
    double sum = 0;
    for (int64_t e = 0; e < inputs.num_experts(); ++e) {
      const auto add = [&](const InputChunk& chunk) -> Result<void> {
        for (const float weight : chunk.weights) sum += static_cast<double>(weight);
        return {};
      };
      EXPECT_TRUE(inputs.for_each_chunk(model::Member::expert_down, e, add).ok());
    }
    return sum;
  };
  EXPECT_GT(weights_of(noisy.inputs), 2 * weights_of(plain.inputs));
  EXPECT_LT(weights_of(noisy.inputs) - weights_of(plain.inputs),
            static_cast<double>(kNoiseWeight * static_cast<float>(tokens)));
}

TEST(Calibration, WeightsThatAreNotFiniteShowInTheMaxima) {
  TestModel model([](TestTensors& tensors, std::string&) {
    tensors["model.language_model.layers.0.post_attention_layernorm.weight"].set_bf16(
        0, std::numeric_limits<float>::quiet_NaN());
  });
  const auto result = run(model, golden_tokens());
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(std::isnan(*result.value().maxima.find(
      "model.language_model.layers.0.mlp.experts.gate_up_proj_input_quantizer")));
}

}  // namespace
}  // namespace nibble::quantize
