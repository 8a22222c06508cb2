// Tests for the router's choice: every level against kernels/reference/route.cc.
//
// Choices are equal. Weights: exp may be off by 2 ulp (4 u) and its argument by u of the largest
// difference; the sum of K adds K u and halves: (10 + K + 2 * range) u relative.
#include "kernels/cpu/route/route.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/route.h"

namespace nibble::cpu {
namespace {

struct Case {
  int64_t experts, chosen;
};

void check_rows(const OperationKernels& level, const std::vector<float>& logits,
                const std::vector<int32_t>& forced, Case c) {
  const auto rows = static_cast<int64_t>(logits.size()) / c.experts;
  std::vector<int32_t> experts(static_cast<size_t>(rows * c.chosen));
  std::vector<float> weights(experts.size());
  const MoeRouteArgs args{logits.data(),  forced.empty() ? nullptr : forced.data(),
                          experts.data(), weights.data(),
                          c.experts,      c.chosen};
  for (int64_t row = 0; row < rows; ++row) level.route.moe_route(args, row, row + 1);
  BoundCheck check(std::string("moe_route ") + level.level);
  for (int64_t row = 0; row < rows; ++row) {
    const float* row_logits = logits.data() + row * c.experts;
    const auto want = reference::moe_route(
        row_logits, forced.empty() ? nullptr : forced.data() + row * c.chosen, c.experts, c.chosen);
    const double range =
        static_cast<double>(row_logits[want.experts.front()] - row_logits[want.experts.back()]);
    for (int64_t k = 0; k < c.chosen; ++k) {
      const auto at = static_cast<size_t>(row * c.chosen + k);
      const auto slot = static_cast<size_t>(k);
      ASSERT_EQ(experts[at], want.experts[slot]) << level.level << " row " << row << " slot " << k;
      const double relative = 10 + static_cast<double>(c.chosen) + 2 * std::abs(range);
      check.add(row * c.chosen + k, weights[at], want.weights[slot],
                relative * kU * want.weights[slot] + 1e-44);
    }
  }
}

TEST(MoeRoute, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (Case c : {Case{256, 8}, Case{8, 2}, Case{10, 3}, Case{16, 4}, Case{512, 10}, Case{5, 5},
                   Case{3, 1}, Case{64, 33}}) {
      check_rows(*level, random_floats(40 * c.experts, 31, 6.0), {}, c);
      // Few distinct values: ties everywhere.
      auto ties = random_floats(40 * c.experts, 32, 3.0);
      for (float& value : ties) value = std::floor(value);
      check_rows(*level, ties, {}, c);
    }
  }
}

TEST(MoeRoute, ForcedChoice) {
  const Case c{16, 4};
  const auto logits = random_floats(3 * c.experts, 33, 6.0);
  const std::vector<int32_t> forced = {0, 1, 2, 3, 15, 3, 9, 0, 4, 5, 6, 7};
  for (const OperationKernels* level : supported_operations()) {
    check_rows(*level, logits, forced, c);
  }
}

TEST(MoeRoute, NaNKeepsIndicesValidAndShows) {
  for (const OperationKernels* level : supported_operations()) {
    std::vector<float> logits(8, std::nanf(""));
    logits[5] = 1.0f;
    std::vector<int32_t> experts(2, -1);
    std::vector<float> weights(2);
    level->route.moe_route({logits.data(), nullptr, experts.data(), weights.data(), 8, 2}, 0, 1);
    EXPECT_EQ(experts[0], 5);
    EXPECT_EQ(experts[1], 0);
    EXPECT_TRUE(std::isnan(weights[1]));
  }
}

}  // namespace
}  // namespace nibble::cpu
