// Tests for rounding with error feedback on whole matrices: factors, what it is worth against
// plain rounding, the same bytes at every level and thread count.
#include "base/rng.h"
#include "device/cpu/cpu_device.h"
#include "formats/bf16.h"
#include "formats/linear_weight.h"
#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace nibble::device {
namespace {

constexpr int64_t kColumns = 96;
constexpr int64_t kRows = 37;  // no multiple of a group
constexpr double kDamping = 0.04;

// Inputs that have much in common, one column in 16 always zero.
std::vector<float> inputs(int64_t count) {
  std::vector<float> out(static_cast<size_t>(count * kColumns));
  for (size_t i = 0; i < out.size(); ++i) {
    const size_t row = i / kColumns, column = i % kColumns;
    const double common = random_unit(7, row * 4 + column % 4) - 0.5;
    const double own = random_unit(8, i) - 0.5;
    const double size = 0.2 + static_cast<double>(column % 7);
    out[i] = column % 16 == 5 ? 0.0f : static_cast<float>(size * (common + 0.3 * own));
  }
  return out;
}

std::vector<uint16_t> matrix_bits() {
  std::vector<uint16_t> out(static_cast<size_t>(kRows * kColumns));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = formats::bf16_from_f32(static_cast<float>(random_unit(9, i) - 0.5));
  }
  return out;
}

ConstTensorView view_of(const std::vector<uint16_t>& bits) {
  return {reinterpret_cast<const std::byte*>(bits.data()), DType::bf16, Shape{kRows, kColumns}};
}

InputMoments moments_of(Device& device) {
  const auto rows = inputs(200);
  std::vector<float> weights(200);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = 1.0f + static_cast<float>(i % 3);
  InputMoments out(kColumns);
  device.add_moments(std::span(rows).first(120 * kColumns), std::span(weights).first(120), &out);
  device.add_moments(std::span(rows).subspan(120 * kColumns), std::span(weights).subspan(120),
                     &out);
  return out;
}

struct Bytes {
  std::vector<uint8_t> codes = std::vector<uint8_t>(kRows * kColumns / 2);
  std::vector<uint8_t> scales = std::vector<uint8_t>(kRows * kColumns / 16);
  bool operator==(const Bytes&) const = default;
};

constexpr float kTensorScale = 0.5f / 2688;

Bytes rounded(Device& device, const std::vector<uint16_t>& bits) {
  Bytes out;
  device.round_nvfp4(view_of(bits), kTensorScale,
                     device.factor_moments(moments_of(device), kDamping), out.codes.data(),
                     out.scales.data());
  return out;
}

// Sum over the inputs of the squared error of the products, with the damping's share.
double loss(Device& device, const std::vector<uint16_t>& bits, const Bytes& bytes) {
  const InputMoments moments = moments_of(device);
  double trace = 0;
  for (int64_t k = 0; k < kColumns; ++k) trace += static_cast<double>(moments.at(k, k));
  formats::LinearWeight stored;
  stored.format = formats::WeightFormat::nvfp4;
  stored.out_features = kRows;
  stored.in_features = kColumns;
  stored.weight = {reinterpret_cast<const std::byte*>(bytes.codes.data()), DType::u8,
                   Shape{kRows, kColumns / 2}};
  stored.weight_scale = {reinterpret_cast<const std::byte*>(bytes.scales.data()), DType::f8_e4m3,
                         Shape{kRows, kColumns / 16}};
  stored.weight_scale_2 = kTensorScale;
  double sum = 0;
  std::vector<float> row(kColumns);
  for (int64_t r = 0; r < kRows; ++r) {
    formats::decode_row_f32(stored, r, row.data());
    std::vector<double> error(kColumns);
    for (size_t k = 0; k < kColumns; ++k) {
      error[k] =
          static_cast<double>(formats::bf16_to_f32(bits[static_cast<size_t>(r) * kColumns + k])) -
          static_cast<double>(row[k]);
    }
    for (int64_t i = 0; i < kColumns; ++i) {
      const double own = error[static_cast<size_t>(i)];
      sum += own * own * kDamping * trace / kColumns;
      for (int64_t j = 0; j < kColumns; ++j) {
        sum += own * static_cast<double>(moments.at(i, j)) * error[static_cast<size_t>(j)];
      }
    }
  }
  return sum;
}

class Feedback : public testing::Test {
 protected:
  ThreadPool pool_{2, {}};
  std::unique_ptr<Device> device_ = make_cpu_device(Arithmetic::f32, detect_isa_level(), pool_);
};

TEST_F(Feedback, MomentsAreWeightedSums) {
  const InputMoments moments = moments_of(*device_);
  const auto rows = inputs(200);
  EXPECT_EQ(moments.weight, 399);
  for (const auto& [i, j] : {std::pair{0, 0}, {3, 90}, {90, 3}, {17, 30}, {5, 8}}) {
    double sum = 0, magnitude = 0;
    for (size_t t = 0; t < 200; ++t) {
      const double product = (1.0 + static_cast<double>(t % 3)) *
                             static_cast<double>(rows[t * kColumns + static_cast<size_t>(i)]) *
                             static_cast<double>(rows[t * kColumns + static_cast<size_t>(j)]);
      sum += product;
      magnitude += std::fabs(product);
    }
    EXPECT_NEAR(moments.at(i, j), sum, 202 * 0x1p-24 * magnitude);
  }
}

// A factor's products give the damped moments back. Each is a sum of up to K products, as exact as
// the sums that made it: both lie within K ulps of the diagonal's geometric mean.
TEST_F(Feedback, FactorGivesTheMomentsBack) {
  const InputMoments moments = moments_of(*device_);
  const FactoredMoments factored = device_->factor_moments(moments, kDamping);
  auto order = factored.order;
  for (int64_t b = 0; b < kColumns / 16; ++b) {
    EXPECT_EQ(order[static_cast<size_t>(16 * b)] / 16,
              order[static_cast<size_t>(16 * b + 15)] / 16);
  }
  std::sort(order.begin(), order.end());
  for (int32_t k = 0; k < kColumns; ++k) EXPECT_EQ(order[static_cast<size_t>(k)], k);
  double trace = 0;
  for (int64_t k = 0; k < kColumns; ++k) trace += static_cast<double>(moments.at(k, k));
  const auto r_at = [&](int64_t row, int64_t k) -> double {
    return k < row
               ? 0
               : factored.factor[static_cast<size_t>((row / 16 * kColumns + k) * 16 + row % 16)];
  };
  const auto wanted_at = [&](int64_t i, int64_t j) {
    const double value =
        moments.at(factored.order[static_cast<size_t>(i)], factored.order[static_cast<size_t>(j)]);
    return i == j ? value + kDamping * trace / kColumns : value;
  };
  for (int64_t i = 0; i < kColumns; ++i) {
    for (int64_t j = i; j < kColumns; ++j) {
      double sum = 0;
      for (int64_t m = 0; m <= i; ++m) sum += r_at(m, i) * r_at(m, j);
      EXPECT_NEAR(sum, wanted_at(i, j),
                  2 * kColumns * 0x1p-24 * std::sqrt(wanted_at(i, i) * wanted_at(j, j)))
          << i << " " << j;
    }
  }
}

TEST_F(Feedback, LosesLessThanTheBlockSearch) {
  const auto bits = matrix_bits();
  const InputMoments moments = moments_of(*device_);
  std::vector<float> blocks(kColumns * 16);
  for (int64_t b = 0; b < kColumns / 16; ++b) {
    for (int64_t i = 0; i < 16; ++i) {
      for (int64_t j = 0; j < 16; ++j) {
        blocks[static_cast<size_t>((b * 16 + i) * 16 + j)] = moments.at(b * 16 + i, b * 16 + j);
      }
    }
  }
  Bytes searched;
  device_->search_nvfp4_scales(view_of(bits),
                               {formats::ScaleMethod::hessian, 0.5f, {}, blocks.data()},
                               searched.scales.data());
  device_->encode_nvfp4(view_of(bits), kTensorScale, searched.scales.data(), searched.codes.data());
  EXPECT_LT(loss(*device_, bits, rounded(*device_, bits)), 0.7 * loss(*device_, bits, searched));
}

TEST_F(Feedback, SameBytesAtEveryLevelAndThreadCount) {
  const auto bits = matrix_bits();
  const Bytes wanted = rounded(*device_, bits);
  for (const IsaLevel level : isa_levels_up_to(detect_isa_level())) {
    for (const int threads : {1, 3}) {
      ThreadPool pool(threads, {});
      const auto device = make_cpu_device(Arithmetic::f32, level, pool);
      EXPECT_TRUE(rounded(*device, bits) == wanted) << isa_level_name(level) << " " << threads;
    }
  }
}

TEST_F(Feedback, BlocksOfZerosStayZeros) {
  std::vector<uint16_t> bits(static_cast<size_t>(kRows * kColumns), 0);
  const Bytes bytes = rounded(*device_, bits);
  for (const uint8_t codes : bytes.codes) EXPECT_EQ(codes, 0);
  for (const uint8_t scale : bytes.scales) EXPECT_EQ(scale, 0x38);
}

}  // namespace
}  // namespace nibble::device
