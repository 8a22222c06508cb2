// Tests for ExpertsLayer::fp8_exact: that there is nothing to round in what it promises.
#include "selftest/model_layers.h"

#include "device/reference/reference_device.h"
#include "formats/bf16.h"
#include "selftest/fp8_rounding.h"
#include "selftest/runner.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::selftest {
namespace {

/// Largest distance that rounding rows of k to E4M3 moves a value, against the row's largest.
double moved_by_rounding(const std::vector<float>& x, int64_t k) {
  const std::vector<float> rounded = round_fp8_rows(x, k);
  double worst = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const auto row = i / static_cast<size_t>(k) * static_cast<size_t>(k);
    const float scale = row_scale(&x[row], k, kFp8Largest);
    worst = std::max(worst, std::abs(double{x[i]} - rounded[i]) / (448.0 * scale));
  }
  return worst;
}

TEST(ExpertsLayer, OfFp8ExactNormsAndSlotsAreE4m3) {
  ThreadPool pool(2, {});
  const auto device = device::make_reference_device(device::Arithmetic::exact, pool);
  ASSERT_TRUE(device->set_workspace(model_workspace(4)).ok());
  constexpr int64_t kRows = 3, kChosen = ExpertsLayer::kChosen, kInner = 512;
  Rng rng(1);
  const ExpertsLayer layer = ExpertsLayer::fp8_exact(rng);
  Buffers buffers(*device);
  const device::MoeWeights weights = layer.put(*device, buffers);
  const TensorView hidden =
      buffers.tensor(DType::f32, {kRows, kHidden}, fp8_exact_residual(kRows, rng));
  const TensorView norm = buffers.tensor(device->activation_dtype(), {kRows, kHidden});
  device->rms_norm(hidden, weights.post_norm, norm);
  EXPECT_EQ(moved_by_rounding(buffers.get(norm), kHidden), 0.0);

  std::vector<int32_t> chosen;
  for (int32_t i = 0; i < kRows * kChosen; ++i) chosen.push_back(i * 37 % 256);
  const TensorView experts(reinterpret_cast<std::byte*>(buffers.put(chosen)), DType::i32,
                           {kRows, kChosen});
  const TensorView slots = buffers.tensor(device->activation_dtype(), {kRows * kChosen, kInner});
  device::StepPlan plan;
  plan.num_rows = kRows, plan.num_sequences = 1;
  device->moe_gate_up(plan, norm, weights.gate_up, experts, slots);
  const std::vector<float> found = buffers.get(slots);
  // Half of the gates are below -32, where SiLU leaves less than 1e-12.
  EXPECT_LT(moved_by_rounding(found, kInner), 1e-12);
  double sum = 0;
  for (const float x : found) sum += double{x} * x;
  EXPECT_GT(sum / static_cast<double>(found.size()), 100.0);
}

}  // namespace
}  // namespace nibble::selftest
