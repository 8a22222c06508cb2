// Tests for the counter-based generator: known bits, order independence, rough uniformity.
#include "base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

namespace nibble {
namespace {

TEST(Rng, MatchesThePublishedSplitmix64Sequence) {
  // First outputs of splitmix64 for seed 1234567 (Vigna's reference program).
  const std::vector<uint64_t> wanted = {6457827717110365317ULL, 3203168211198807973ULL,
                                        9817491932198370423ULL, 4593380528125082431ULL,
                                        16408922859458223821ULL};
  Rng rng(1234567);
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(rng.bits(), wanted[i]);
    EXPECT_EQ(random_bits(1234567, i), wanted[i]);
  }
}

TEST(Rng, UnitLiesInRangeWithTheRightMoments) {
  Rng rng(7);
  constexpr int kDraws = 200000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = rng.unit();
    ASSERT_GE(x, 0.0);
    ASSERT_LT(x, 1.0);
    sum += x;
    squares += x * x;
  }
  // Five standard errors of the mean and of the second moment of a uniform variable.
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / kDraws));
}

TEST(Rng, BelowReachesEveryValueAndSeedsDiffer) {
  Rng rng(1);
  std::vector<int> counts(10);
  for (int i = 0; i < 10000; ++i) ++counts.at(rng.below(10));
  // Binomial(10000, 0.1): standard deviation 30, so 150 is five of them.
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
  EXPECT_NE(random_bits(1, 0), random_bits(2, 0));
}

}  // namespace
}  // namespace nibble
