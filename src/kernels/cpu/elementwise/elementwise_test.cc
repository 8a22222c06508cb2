// Tests for the elementwise operations: every level against kernels/reference/elementwise.cc.
//
// sigmoid may be off by 4 ulp (math.inl), which is 8 u; each further operation adds u.
#include "kernels/cpu/elementwise/elementwise.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/elementwise.h"

namespace nibble::cpu {
namespace {

/// Both signs, all magnitudes from denormal to the end of the range, and the places where exp
/// changes behaviour.
std::vector<float> sweep() {
  std::vector<float> values = {0.0f,   -0.0f,  1e-45f,  -1e-45f, 87.5f,   -87.5f, 88.8f,
                               -88.8f, 103.0f, -103.0f, 104.5f,  -104.5f, 3e38f,  -3e38f};
  for (int exponent = -40; exponent < 8; ++exponent) {
    for (uint64_t i = 0; i < 200; ++i) {
      const double magnitude =
          std::ldexp(1 + random_unit(11, i + static_cast<uint64_t>(exponent + 40) * 200), exponent);
      values.push_back(static_cast<float>(i % 2 == 0 ? magnitude : -magnitude));
    }
  }
  return values;
}

TEST(SigmoidGate, WholeRangeAgainstReference) {
  const auto gate = sweep();
  const auto n = static_cast<int64_t>(gate.size());
  const std::vector<float> x(gate.size(), 1.0f);
  std::vector<double> want(gate.size());
  reference::sigmoid_gate(x.data(), gate.data(), n, want.data());
  for (const OperationKernels* level : supported_operations()) {
    std::vector<float> out(gate.size());
    std::vector<uint16_t> rounded(gate.size());
    level->elementwise.sigmoid_gate({x.data(), gate.data(), out.data(), Element::f32, n}, 0, 1);
    level->elementwise.sigmoid_gate({x.data(), gate.data(), rounded.data(), Element::bf16, n}, 0,
                                    1);
    BoundCheck check(std::string("sigmoid ") + level->level);
    for (size_t i = 0; i < want.size(); ++i) {
      check.add(static_cast<int64_t>(i), out[i], want[i], 9 * kU * want[i] + 1.5e-45);
      ASSERT_EQ(rounded[i], formats::bf16_from_f32(out[i]));
    }
  }
}

TEST(SigmoidGate, InfinityAndNaN) {
  const float infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {infinity, -infinity, std::nanf("")};
  const std::vector<float> x(3, 2.0f);
  for (const OperationKernels* level : supported_operations()) {
    std::vector<float> out(3);
    level->elementwise.sigmoid_gate({x.data(), gate.data(), out.data(), Element::f32, 3}, 0, 1);
    EXPECT_EQ(out[0], 2.0f);
    EXPECT_EQ(out[1], 0.0f);
    EXPECT_TRUE(std::isnan(out[2]));
  }
}

TEST(Add, ExactAndInPlace) {
  for (const OperationKernels* level : supported_operations()) {
    for (int64_t n : {1, 7, 64, 77}) {
      auto a = random_floats(3 * n, 12);
      const auto b = random_floats(3 * n, 13);
      std::vector<float> want(a.size());
      for (size_t i = 0; i < a.size(); ++i) want[i] = a[i] + b[i];
      level->elementwise.add({a.data(), b.data(), a.data(), n}, 0, 3);
      expect_same_bits(a, want, level->level);
    }
  }
}

TEST(MoeAddShared, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (bool accumulate : {false, true}) {
      const int64_t n = 83, rows = 4;
      const auto base = random_floats(rows * n, 14), routed = random_floats(rows * n, 15);
      const auto shared = random_floats(rows * n, 16);
      const auto logits = random_floats(rows, 17, 5.0);
      auto gate = logits;
      auto out = base;
      const AddSharedArgs args{accumulate ? out.data() : nullptr,
                               routed.data(),
                               shared.data(),
                               gate.data(),
                               out.data(),
                               n};
      level->elementwise.moe_add_shared(args, 0, 1);
      level->elementwise.moe_add_shared(args, 1, rows);
      BoundCheck check(std::string("moe_add_shared ") + level->level);
      std::vector<double> want(static_cast<size_t>(n));
      for (int64_t r = 0; r < rows; ++r) {
        const auto row = static_cast<size_t>(r);
        reference::moe_add_shared(accumulate ? base.data() + r * n : nullptr, routed.data() + r * n,
                                  shared.data() + r * n, logits[row], n, want.data());
        const double sigmoid = reference::sigmoid(logits[row]);
        EXPECT_NEAR(gate[row], sigmoid, 9 * kU * sigmoid);
        for (int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<size_t>(r * n + i);
          const double size =
              std::abs(base[at]) + std::abs(routed[at]) + std::abs(shared[at]) * sigmoid;
          check.add(r * n + i, out[at], want[static_cast<size_t>(i)], 12 * kU * size);
        }
      }
    }
  }
}

TEST(GatherRows, PicksAndRounds) {
  const int64_t n = 21;
  const auto x = random_floats(5 * n, 18);
  const std::vector<int32_t> rows = {4, 0, 4};
  for (const OperationKernels* level : supported_operations()) {
    std::vector<float> out(3 * n);
    std::vector<uint16_t> rounded(3 * n);
    level->elementwise.gather_rows({x.data(), rows.data(), out.data(), Element::f32, n}, 0, 3);
    level->elementwise.gather_rows({x.data(), rows.data(), rounded.data(), Element::bf16, n}, 0, 3);
    for (int64_t i = 0; i < 3 * n; ++i) {
      const float want = x[static_cast<size_t>(rows[static_cast<size_t>(i / n)] * n + i % n)];
      ASSERT_EQ(out[static_cast<size_t>(i)], want);
      ASSERT_EQ(rounded[static_cast<size_t>(i)], formats::bf16_from_f32(want));
    }
  }
}

TEST(GatherRows, Bf16RoundingOfSpecialValues) {
  std::vector<float> x = {std::nanf(""),
                          -std::nanf(""),
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::max(),
                          1e-45f,
                          -0.0f,
                          __builtin_bit_cast(float, 0x3F808000u),  // tie, to even below
                          __builtin_bit_cast(float, 0x3F818000u)};  // tie, to even above
  for (uint64_t i = 0; i < 5000; ++i) {
    x.push_back(__builtin_bit_cast(float, static_cast<uint32_t>(random_bits(19, i))));
  }
  const std::vector<int32_t> rows = {0};
  for (const OperationKernels* level : supported_operations()) {
    std::vector<uint16_t> out(x.size());
    level->elementwise.gather_rows(
        {x.data(), rows.data(), out.data(), Element::bf16, static_cast<int64_t>(x.size())}, 0, 1);
    for (size_t i = 0; i < x.size(); ++i) {
      ASSERT_EQ(out[i], formats::bf16_from_f32(x[i])) << level->level << " " << i;
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
