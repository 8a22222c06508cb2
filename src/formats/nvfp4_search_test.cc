// Tests for the block scale search and the FP8 encoder. ModelOpt's own searches are golden_runner's
// business.
#include "formats/nvfp4_search.h"

#include "base/json.h"
#include "base/rng.h"
#include "formats/bf16.h"
#include "formats/e4m3.h"
#include "formats/fp8_encode.h"
#include "formats/nvfp4_encode.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace nibble::formats {
namespace {

// Near a normal distribution.
float next_normal(Rng& rng) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += rng.unit();
  return static_cast<float>(sum);
}

// BF16 values, some blocks far smaller than the rest.
std::vector<float> random_row(uint64_t seed, size_t columns) {
  Rng rng(seed);
  std::vector<float> row(columns);
  for (size_t i = 0; i < columns; ++i) {
    const float scale = i / 16 % 3 == 2 ? 0x1p-9f : 1.0f;
    row[i] = round_to_bf16(scale * next_normal(rng));
  }
  return row;
}

// A symmetric positive matrix per block.
std::vector<float> random_moments(uint64_t seed, size_t blocks) {
  Rng rng(seed);
  std::vector<float> out(blocks * 256);
  for (size_t b = 0; b < blocks; ++b) {
    for (int sample = 0; sample < 20; ++sample) {
      float x[16];
      for (float& value : x) value = next_normal(rng);
      for (size_t i = 0; i < 256; ++i) out[b * 256 + i] += x[i / 16] * x[i % 16];
    }
  }
  return out;
}

std::vector<uint8_t> search(const std::vector<float>& row, ScaleMethod method,
                            const float* moments = nullptr) {
  std::vector<uint8_t> scales(row.size() / 16);
  search_nvfp4_scales(row, {method, max_magnitude(row), {}, moments}, scales.data());
  return scales;
}

double loss(const std::vector<float>& row, size_t block, uint8_t scale, float tensor_scale,
            const float* moments = nullptr) {
  return nvfp4_block_loss(std::span(row).subspan(block * 16, 16), tensor_scale, scale,
                          moments == nullptr ? nullptr : moments + block * 256);
}

void expect_best(const std::vector<float>& row, const std::vector<uint8_t>& scales,
                 const float* moments) {
  const float tensor_scale = nvfp4_tensor_scale(max_magnitude(row), ScalarDivision::recip);
  for (size_t b = 0; b < scales.size(); ++b) {
    double best = std::numeric_limits<double>::infinity();
    for (int scale = 1; scale <= 0x7E; ++scale) {
      best = std::min(best, loss(row, b, static_cast<uint8_t>(scale), tensor_scale, moments));
    }
    EXPECT_LE(loss(row, b, scales[b], tensor_scale, moments), best * (1 + 1e-5)) << b;
  }
}

TEST(Nvfp4Search, SquaredErrorFindsTheBestOfAllBytes) {
  const std::vector<float> row = random_row(1, 960);
  expect_best(row, search(row, ScaleMethod::mse), nullptr);
}

TEST(Nvfp4Search, WeightedErrorFindsTheBestOfAllBytes) {
  const std::vector<float> row = random_row(2, 480);
  const std::vector<float> moments = random_moments(3, row.size() / 16);
  const std::vector<uint8_t> scales = search(row, ScaleMethod::hessian, moments.data());
  expect_best(row, scales, moments.data());
  EXPECT_NE(scales, search(row, ScaleMethod::mse));
}

TEST(Nvfp4Search, ZeroMomentsFallBackToSquaredError) {
  const std::vector<float> row = random_row(4, 160);
  std::vector<float> moments(row.size() * 16, 0.0f);
  const std::vector<uint8_t> squared = search(row, ScaleMethod::mse);
  EXPECT_EQ(search(row, ScaleMethod::hessian, moments.data()), squared);
  EXPECT_EQ(search(row, ScaleMethod::hessian, nullptr), squared);
  moments[0] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(search(row, ScaleMethod::hessian, moments.data()), squared);
}

TEST(Nvfp4Search, IdentityMomentsAreSquaredError) {
  const std::vector<float> row = random_row(5, 160);
  std::vector<float> moments(row.size() * 16, 0.0f);
  for (size_t i = 0; i < row.size(); ++i) moments[i / 16 * 256 + i % 16 * 17] = 1.0f;
  EXPECT_EQ(search(row, ScaleMethod::hessian, moments.data()), search(row, ScaleMethod::mse));
}

TEST(Nvfp4Search, FourOverSixTakesTheBetterOfTwo) {
  const std::vector<float> row = random_row(6, 960);
  const float amax = max_magnitude(row);
  const float tensor_scale =
      tensor_scale_for(ScaleMethod::four_over_six, amax, ScalarDivision::recip);
  EXPECT_EQ(tensor_scale, divide_scalar(amax, 1536.0f, ScalarDivision::recip));
  const std::vector<uint8_t> scales = search(row, ScaleMethod::four_over_six);
  int fours = 0;
  for (size_t b = 0; b < scales.size(); ++b) {
    const float largest = max_magnitude(std::span(row).subspan(b * 16, 16));
    const uint8_t six = static_block_scale(largest, amax, 256, {});
    const uint8_t four = static_block_scale(1.5f * largest, amax, 256, {});
    const double six_loss = loss(row, b, six, tensor_scale);
    const double four_loss = loss(row, b, four, tensor_scale);
    EXPECT_TRUE(scales[b] == six || scales[b] == four) << b;
    if (std::abs(six_loss - four_loss) > 1e-6 * six_loss) {
      EXPECT_EQ(scales[b], four_loss < six_loss ? four : six) << b;
    }
    fours += scales[b] == four;
  }
  EXPECT_GT(fours, 5);
  EXPECT_LT(fours, static_cast<int>(scales.size()) - 5);
}

TEST(Nvfp4Search, ZeroBlocksGetOne) {
  std::vector<float> row = random_row(7, 64);
  std::fill(row.begin() + 16, row.begin() + 32, 0.0f);
  row[20] = -0.0f;
  for (const ScaleMethod method :
       {ScaleMethod::mse, ScaleMethod::four_over_six, ScaleMethod::hessian}) {
    EXPECT_EQ(search(row, method)[1], 0x38) << scale_method_name(method);
  }
}

TEST(Nvfp4Search, BlocksBelowTheSmallestScaleGetAUsableOne) {
  std::vector<float> row(32, 0x1p-40f);
  row[0] = 1.0f;
  for (const ScaleMethod method : {ScaleMethod::mse, ScaleMethod::four_over_six}) {
    const uint8_t scale = search(row, method)[1];
    EXPECT_GE(scale, 1) << scale_method_name(method);
    EXPECT_LE(scale, 0x7E) << scale_method_name(method);
  }
}

TEST(Nvfp4Search, NamesGoRound) {
  for (const ScaleMethod method :
       {ScaleMethod::max, ScaleMethod::mse, ScaleMethod::four_over_six, ScaleMethod::hessian}) {
    EXPECT_EQ(parse_scale_method(scale_method_name(method)), method);
  }
  EXPECT_EQ(parse_scale_method("best"), std::nullopt);
}

TEST(Fp8Encode, RoundsTheQuotientToBf16First) {
  // 1.0625 is a tie between 1 and 1.125 and gets the even code. 1.06640625 lies above it, but BF16
  // makes it 1.0625 first; 1.0703125 stays above. 465 becomes 464, which is still 448.
  const std::vector<float> row = {1.0f, -448.0f, 1.0625f, 1.06640625f, 1.0703125f, 465.0f};
  std::vector<uint8_t> codes(row.size());
  fp8_encode_row(row, 1.0f, ScalarDivision::ieee, codes.data());
  EXPECT_EQ(codes, (std::vector<uint8_t>{0x38, 0xFE, 0x38, 0x38, 0x39, 0x7E}));
}

TEST(Fp8Encode, GpuDividesByTheRoundedScale) {
  const float scale = std::bit_cast<float>(0x3B008080u);  // between two BF16 values
  const std::vector<float> row = {round_to_bf16(440.0f * scale)};
  uint8_t on_cpu = 0;
  uint8_t on_gpu = 0;
  fp8_encode_row(row, scale, ScalarDivision::ieee, &on_cpu);
  fp8_encode_row(row, scale, ScalarDivision::recip, &on_gpu);
  const auto code = [&](float divisor) { return e4m3_from_f32(round_to_bf16(row[0] / divisor)); };
  EXPECT_EQ(on_cpu, code(scale));
  EXPECT_EQ(on_gpu, code(round_to_bf16(scale)));
}

}  // namespace
}  // namespace nibble::formats
