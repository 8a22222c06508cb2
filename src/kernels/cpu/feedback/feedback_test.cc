// Tests for rounding with error feedback: every level gives the bits of formats/nvfp4_feedback.cc;
// products and chosen blocks hold against the double reference within bounds derived there.
#include "kernels/cpu/feedback/feedback.h"

#include "formats/nvfp4_feedback.h"
#include "formats/nvfp4_search.h"
#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/feedback.h"

#include <array>

namespace nibble::cpu {
namespace {

constexpr int kBlock = 16;
constexpr int kTile = kBlock * kBlock;

TEST(FeedbackProducts, MatchReferenceAndPlainForm) {
  for (const int64_t count : {0, 1, 7, 64, 333}) {
    const auto a = random_floats(count * kBlock, 3);
    const auto b = random_floats(count * kBlock, 4, 5.0);
    const auto start = random_floats(kTile, 5);
    std::vector<float> wanted = start;
    formats::add_tile_products(a.data(), b.data(), count, wanted.data());
    for (const OperationKernels* level : supported_operations()) {
      SCOPED_TRACE(level->level);
      std::vector<float> found = start;
      level->feedback.add_tile_products({a.data(), b.data(), count, found.data()});
      EXPECT_EQ(found, wanted);
      for (size_t e = 0; e < kTile; ++e) {
        const auto sum =
            reference::tile_product(a.data(), b.data(), count, static_cast<int>(e / kBlock),
                                    static_cast<int>(e % kBlock), start[e]);
        EXPECT_NEAR(found[e], sum.value, sum.f32_bound);
      }
    }
  }
}

// A block to round, its triangle with a strong diagonal now and then, and the candidates that fit.
struct Case {
  std::vector<float> centers, triangle;
  std::array<float, 128> units, inverses;
  int first;

  explicit Case(uint64_t seed)
      : centers(random_floats(kBlock, seed)),
        triangle(random_floats(kTile, seed + 1000)),
        units(formats::nvfp4_scale_units(std::ldexp(1.0f, -static_cast<int>(seed % 12)))) {
    float largest = 0;
    for (const float center : centers) largest = std::max(largest, std::fabs(center));
    for (size_t i = 0; i < kBlock; ++i) {
      for (size_t j = 0; j < i; ++j) triangle[i * kBlock + j] = 0;
      float& pivot = triangle[i * kBlock + i];
      pivot = std::fabs(pivot) + 0.1f + static_cast<float>(seed % 3);
    }
    for (size_t i = 0; i < units.size(); ++i) inverses[i] = 1.0f / units[i];
    first = formats::first_feedback_candidate(largest, units.data());
  }

  formats::BlockTarget target() const {
    return {centers.data(), triangle.data(), units.data() + first, inverses.data() + first};
  }
};

formats::RoundedBlock rounded(const OperationKernels& level, const formats::BlockTarget& target) {
  formats::RoundedBlock out;
  level.feedback.round_block({target.centers, target.triangle, target.units, target.inverse_units,
                              out.values, &out.loss, &out.chosen});
  return out;
}

TEST(FeedbackRounding, MatchesPlainForm) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const Case block(seed);
    const auto wanted = formats::round_block_with_feedback(block.target());
    for (const OperationKernels* level : supported_operations()) {
      const auto found = rounded(*level, block.target());
      EXPECT_EQ(found.chosen, wanted.chosen) << level->level << " seed " << seed;
      EXPECT_EQ(found.loss, wanted.loss);
      for (size_t i = 0; i < kBlock; ++i) EXPECT_EQ(found.values[i], wanted.values[i]);
    }
  }
}

TEST(FeedbackRounding, IsTheBestOfTheReferencesPaths) {
  int clear = 0;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const Case block(seed);
    const formats::BlockTarget target = block.target();
    for (const OperationKernels* level : supported_operations()) {
      const auto found = rounded(*level, target);
      const auto own =
          reference::feedback_path(target.centers, target.triangle, target.units[found.chosen]);
      if (!own.is_clear) continue;
      ++clear;
      for (size_t i = 0; i < kBlock; ++i) {
        EXPECT_NEAR(found.values[i], own.values[i], kU * std::fabs(own.values[i]));
      }
      EXPECT_NEAR(found.loss, own.loss.value, own.loss.f32_bound);
      for (int c = 0; c < formats::kFeedbackCandidates; ++c) {
        const auto other =
            reference::feedback_path(target.centers, target.triangle, target.units[c]);
        if (!other.is_clear) continue;
        EXPECT_LE(own.loss.value, other.loss.value + own.loss.f32_bound + other.loss.f32_bound)
            << level->level << " seed " << seed << " candidate " << c;
      }
    }
  }
  EXPECT_GT(clear, 250);
}

TEST(FeedbackRounding, WindowHoldsTheByteOfTheMaxRule) {
  const auto units = formats::nvfp4_scale_units(0.01f);
  for (int byte = 1; byte <= 0x7E; ++byte) {
    const int first = formats::first_feedback_candidate(6.0f * units[static_cast<size_t>(byte - 1)],
                                                        units.data());
    EXPECT_LE(first, byte - 1);
    EXPECT_GE(first + formats::kFeedbackCandidates, byte);
    EXPECT_GE(first, 0);
    EXPECT_LE(first + formats::kFeedbackCandidates, 0x7E);
  }
}

}  // namespace
}  // namespace nibble::cpu
