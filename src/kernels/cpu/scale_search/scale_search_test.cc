// Tests for the scale search: every level gives the bytes of formats/nvfp4_search.cc, and their
// loss is the smallest of all scale bytes by the double reference, up to what f32 losses may differ
// by (derived in kernels/reference/scale_search.cc).
#include "kernels/cpu/scale_search/scale_search.h"

#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"
#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/scale_search.h"

#include <span>

namespace nibble::cpu {
namespace {

constexpr int64_t kBlocks = 400;

// Blocks of very different sizes, some of one weight, some zero.
std::vector<float> random_weights() {
  std::vector<float> out = random_floats(kBlocks * 16, 5);
  for (size_t b = 0; b < kBlocks; ++b) {
    const float scale = std::ldexp(1.0f, -static_cast<int>(b % 23));
    for (size_t i = 0; i < 16; ++i) {
      float& weight = out[b * 16 + i];
      weight = formats::round_to_bf16(weight * scale);
      if (b % 11 == 3 && i != b % 16) weight = 0;
      if (b % 17 == 5) weight = i % 2 == 0 ? 0.0f : -0.0f;
    }
  }
  return out;
}

std::vector<float> random_moments() {
  std::vector<float> out(kBlocks * 256);
  for (size_t b = 0; b < kBlocks; ++b) {
    if (b % 13 == 0) continue;  // zero moments
    for (uint64_t sample = 0; sample < 1 + b % 20; ++sample) {
      const auto x = random_floats(16, 1000 * b + sample);
      for (size_t i = 0; i < 256; ++i) out[b * 256 + i] += x[i / 16] * x[i % 16];
    }
  }
  return out;
}

void compare(const float* moments) {
  const std::vector<float> weights = random_weights();
  const float amax = formats::max_magnitude(weights);
  const auto method =
      moments == nullptr ? formats::ScaleMethod::mse : formats::ScaleMethod::hessian;
  std::vector<uint8_t> wanted(kBlocks);
  formats::search_nvfp4_scales(weights, {method, amax, {}, moments}, wanted.data());
  for (const OperationKernels* level : supported_operations()) {
    SCOPED_TRACE(level->level);
    std::vector<uint8_t> found(kBlocks);
    const auto units = formats::nvfp4_scale_units(formats::tensor_scale_for(method, amax, {}));
    level->scale_search.best_scales({weights.data(), kBlocks, units.data(), moments, found.data()});
    EXPECT_EQ(found, wanted);
  }
}

void compare_with_reference(const float* moments) {
  const std::vector<float> weights = random_weights();
  const float amax = formats::max_magnitude(weights);
  const auto method =
      moments == nullptr ? formats::ScaleMethod::mse : formats::ScaleMethod::hessian;
  const float tensor_scale = formats::tensor_scale_for(method, amax, {});
  const auto units = formats::nvfp4_scale_units(tensor_scale);
  for (const OperationKernels* level : supported_operations()) {
    std::vector<uint8_t> found(kBlocks);
    level->scale_search.best_scales({weights.data(), kBlocks, units.data(), moments, found.data()});
    for (int64_t b = 0; b < kBlocks; ++b) {
      const float* block = weights.data() + b * 16;
      // Zero moments fall back to the squared error.
      const float* h = moments == nullptr || b % 13 == 0 ? nullptr : moments + b * 256;
      const auto best = reference::smallest_block_loss(block, tensor_scale, h);
      const auto loss =
          reference::block_loss(block, tensor_scale, found[static_cast<size_t>(b)], h);
      EXPECT_LE(loss.value, best.value + best.f32_bound + loss.f32_bound)
          << level->level << " block " << b << " byte " << int{found[static_cast<size_t>(b)]};
    }
  }
}

TEST(ScaleSearch, LossIsTheSmallestByTheDoubleReference) {
  compare_with_reference(nullptr);
  compare_with_reference(random_moments().data());
}

TEST(ScaleSearch, SquaredErrorIsTheSameAtEveryLevel) {
  compare(nullptr);
}

TEST(ScaleSearch, WeightedErrorIsTheSameAtEveryLevel) {
  compare(random_moments().data());
}

}  // namespace
}  // namespace nibble::cpu
