// Tests for calibration: coverage, refusals, and the same maxima from the double reference device
// at another geometry. ModelOpt's own maxima are golden_runner's business.
#include "quantize/calibration.h"

#include "device/reference/reference_device.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble::quantize {
namespace {

bool always(int, int) {
  return true;
}

std::vector<std::vector<int32_t>> golden_tokens() {
  return read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json").value();
}

TEST(Calibration, CountsExpertsAndTokens) {
  TestModel model;
  const auto sequences = golden_tokens();
  std::vector<int> steps;
  const auto result =
      calibrate(model.device(), model.source(), {sequences, nullptr}, [&](int done, int total) {
        EXPECT_EQ(total, 4);
        steps.push_back(done);
        return true;
      });
  ASSERT_TRUE(result.ok()) << result.error().message;
  int64_t tokens = 0;
  for (const auto& sequence : sequences) tokens += static_cast<int64_t>(sequence.size());
  EXPECT_EQ(result.value().tokens, tokens);
  EXPECT_EQ(result.value().experts_total, 32);
  EXPECT_EQ(result.value().experts_seen, 31);  // the golden source has one expert without tokens
  EXPECT_EQ(steps, (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_EQ(result.value().experts_seen_by_layer, (std::vector<int64_t>{7, 8, 8, 8}));
  // Every layer has five inputs of its experts; two have four projections and K and V, two have
  // five projections; and there is the head.
  EXPECT_EQ(result.value().maxima.values().size(), 4u * 5 + 2 * (4 + 2) + 2 * 5 + 1);
}

TEST(Calibration, MaximaDoNotDependOnTheOrderOfSequences) {
  TestModel model;
  auto sequences = golden_tokens();
  const auto forward = calibrate(model.device(), model.source(), {sequences, nullptr}, always);
  std::reverse(sequences.begin(), sequences.end());
  const auto backward = calibrate(model.device(), model.source(), {sequences, nullptr}, always);
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
  const auto wanted = calibrate(*reference, model.source(), {sequences, nullptr}, always);
  const auto found = calibrate(model.device(), model.source(), {sequences, nullptr}, always);
  ASSERT_TRUE(wanted.ok() && found.ok());
  ASSERT_EQ(found.value().maxima.values().size(), wanted.value().maxima.values().size());
  for (const auto& [name, amax] : wanted.value().maxima.values()) {
    EXPECT_NEAR(*found.value().maxima.find(name), amax, 0.02 * amax) << name;
  }
}

TEST(Calibration, TokenOutsideTheVocabulary) {
  TestModel model;
  for (const int32_t token : {-1, 512}) {
    const auto result =
        calibrate(model.device(), model.source(), {{{1, 2}, {3, token}}, nullptr}, always);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::invalid_argument);
    EXPECT_NE(result.error().message.find("sequence 1: token id " + std::to_string(token)),
              std::string::npos)
        << result.error().message;
  }
}

TEST(Calibration, StopsWhenAsked) {
  TestModel model;
  const auto result = calibrate(model.device(), model.source(), {golden_tokens(), nullptr},
                                [](int done, int) { return done < 2; });
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::cancelled);
}

TEST(Calibration, WeightsThatAreNotFiniteShowInTheMaxima) {
  TestModel model([](TestTensors& tensors, std::string&) {
    tensors["model.language_model.layers.0.post_attention_layernorm.weight"].set_bf16(
        0, std::numeric_limits<float>::quiet_NaN());
  });
  const auto result = calibrate(model.device(), model.source(), {golden_tokens(), nullptr}, always);
  ASSERT_TRUE(result.ok());
  EXPECT_TRUE(std::isnan(*result.value().maxima.find(
      "model.language_model.layers.0.mlp.experts.gate_up_proj_input_quantizer")));
}

}  // namespace
}  // namespace nibble::quantize
