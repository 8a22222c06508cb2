// Tests for whole moments: who shares them, and what experts and matrices without inputs get.
#include "quantize/whole_moments.h"

#include "quantize/calibration.h"
#include "quantize/token_file.h"
#include "tests/support/quantize_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace nibble::quantize {
namespace {

using model::Member;

// Inputs of the golden source's first layer, in which one of eight experts gets no token.
LayerStatistics first_layer(TestModel& model) {
  CalibrationRequest request;
  request.sequences =
      read_token_file(std::string(kGoldens) + "/source/calibration_tokens.json").value();
  request.scratch = model.output("");
  request.gathered.inputs = true;
  const auto calibrator = Calibrator::open(model.device(), model.source(), request,
                                           [](int64_t, int64_t) { return true; });
  return calibrator.value()->layer(0).value();
}

TEST(WholeMoments, GateAndUpShareThem) {
  TestModel model;
  const LayerStatistics layer = first_layer(model);
  WholeMoments moments(model.device());
  const auto* gate = moments.of(layer.inputs, Member::expert_gate, 1).value();
  const std::vector<float> values = gate->factor;
  const auto* up = moments.of(layer.inputs, Member::expert_up, 1).value();
  EXPECT_EQ(up->factor, values);
  const auto* other = moments.of(layer.inputs, Member::expert_gate, 2).value();
  EXPECT_NE(other->factor, values);
  EXPECT_EQ(moments.of(layer.inputs, Member::expert_down, 1).value()->columns,
            model.source().config().moe_intermediate_size);
}

TEST(WholeMoments, ExpertWithoutTokensTakesTheLayers) {
  TestModel model;
  const LayerStatistics layer = first_layer(model);
  int64_t unseen = -1;
  for (int64_t e = 0; e < 8; ++e) {
    if (layer.inputs.rows(Member::expert_gate, e) == 0) unseen = e;
  }
  ASSERT_GE(unseen, 0);
  WholeMoments moments(model.device());
  const auto* own = moments.of(layer.inputs, Member::expert_gate, unseen).value();
  ASSERT_NE(own, nullptr);
  const std::vector<float> values = own->moments;
  const auto* all = moments.of(layer.inputs, Member::shared_gate, model::kSharedExpert).value();
  ASSERT_EQ(all->moments.size(), values.size());
  // Means of the same rows: once through the prior's weight, once unscaled.
  const auto tokens = static_cast<double>(layer.inputs.rows(Member::shared_gate, 0));
  for (size_t i = 0; i < values.size(); ++i) {
    const double wanted = static_cast<double>(all->moments[i]) / tokens;
    ASSERT_NEAR(values[i], wanted, 1e-5 * std::fabs(wanted) + 1e-9);
  }
  EXPECT_NE(moments.of(layer.inputs, Member::expert_down, unseen).value(), nullptr);
}

TEST(WholeMoments, NothingSeenIsNull) {
  TestModel model;
  WholeMoments moments(model.device());
  const LayerInputs nothing(model.source().config(), model.output("inputs"));
  EXPECT_EQ(moments.of(nothing, Member::shared_down, model::kSharedExpert).value(), nullptr);
  EXPECT_EQ(moments.of(nothing, Member::expert_gate, 0).value(), nullptr);
}

}  // namespace
}  // namespace nibble::quantize
