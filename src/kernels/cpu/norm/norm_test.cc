// Tests for the norms: every level against kernels/reference/norm.cc.
//
// Bound: the mean is a sum of positive terms in chains of at most n / 4 with relative error
// (n / 4 + 8) u, halved by the root; then six more roundings (two for the root, the products,
// 1 + w), and 10 u for silu. A bf16 output adds half of its ulp.
#include "kernels/cpu/norm/norm.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/norm.h"

namespace nibble::cpu {
namespace {

double norm_bound(int64_t n, double extra) {
  return ((static_cast<double>(n) / 4 + 8) / 2 + 6 + extra) * kU;
}

TEST(RmsNorm, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (int64_t n : {1, 3, 16, 80, 192, 256, 2048, 4099}) {
      for (double scale : {1e-20, 1.0, 1e15}) {
        const int64_t rows = 3;
        const auto x = random_floats(rows * n, 1, scale);
        const auto w = random_floats(n, 2);
        std::vector<float> out(x.size());
        std::vector<uint16_t> rounded(x.size());
        level->norm.rms_norm({x.data(), w.data(), out.data(), Element::f32, n, 1e-6f}, 0, rows);
        level->norm.rms_norm({x.data(), w.data(), rounded.data(), Element::bf16, n, 1e-6f}, 0,
                             rows);
        BoundCheck check(std::string("rms_norm ") + level->level + " n " + std::to_string(n));
        std::vector<double> want(static_cast<size_t>(n));
        for (int64_t row = 0; row < rows; ++row) {
          reference::rms_norm(x.data() + row * n, w.data(), n, double{1e-6f}, want.data());
          for (int64_t i = 0; i < n; ++i) {
            const auto at = static_cast<size_t>(row * n + i);
            const double exact = want[static_cast<size_t>(i)];
            // 1 + w cancels: its rounding is u of the larger of 1 and |w|.
            const double size =
                std::abs(exact) + std::abs(exact / (1.0 + w[static_cast<size_t>(i)]));
            check.add(row * n + i, out[at], exact, norm_bound(n, 0) * size + 1e-44);
            ASSERT_EQ(rounded[at], formats::bf16_from_f32(out[at]));
          }
        }
      }
    }
  }
}

TEST(RmsNorm, ZerosDenormalsAndNaN) {
  for (const OperationKernels* level : supported_operations()) {
    const int64_t n = 40;
    std::vector<float> x(3 * n, 0.0f);
    x[n] = 1e-45f;  // row 1: one denormal
    x[2 * n + 5] = std::numeric_limits<float>::quiet_NaN();
    const std::vector<float> w(n, 0.5f);
    std::vector<float> out(x.size(), 7.0f);
    level->norm.rms_norm({x.data(), w.data(), out.data(), Element::f32, n, 1e-6f}, 0, 3);
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], 0.0f);
    EXPECT_NEAR(out[n], double{x[n]} * 1e3 * 1.5, 1e-44);
    for (int64_t i = 2 * n; i < 3 * n; ++i) EXPECT_TRUE(std::isnan(out[static_cast<size_t>(i)]));
  }
}

TEST(RmsNorm, RowsDoNotDependOnTheirCompany) {
  for (const OperationKernels* level : supported_operations()) {
    const int64_t n = 272, rows = 9;
    const auto x = random_floats(rows * n, 3);
    const auto w = random_floats(n, 4);
    std::vector<float> all(x.size()), alone(x.size());
    level->norm.rms_norm({x.data(), w.data(), all.data(), Element::f32, n, 1e-6f}, 0, rows);
    for (int64_t r = rows - 1; r >= 0; --r) {
      level->norm.rms_norm({x.data(), w.data(), alone.data(), Element::f32, n, 1e-6f}, r, r + 1);
    }
    expect_same_bits(all, alone, level->level);
  }
}

TEST(GatedRmsNorm, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (int64_t n : {16, 24, 80, 128}) {
      const int64_t rows = 4, heads = 6;
      const auto core = random_floats(rows * heads * n, 5);
      const auto z = random_floats(rows * heads * n, 6, 30.0);
      const auto w = random_floats(n, 7);
      std::vector<float> out(core.size());
      std::vector<uint16_t> rounded(core.size());
      GatedRmsNormArgs args{core.data(),  z.data(), w.data(), out.data(),
                            Element::f32, heads,    n,        1e-6f};
      level->norm.gated_rms_norm(args, 0, 2);
      level->norm.gated_rms_norm(args, 2, rows);
      args.out = rounded.data();
      args.out_type = Element::bf16;
      level->norm.gated_rms_norm(args, 0, rows);
      BoundCheck check(std::string("gated_rms_norm ") + level->level);
      std::vector<double> want(static_cast<size_t>(n));
      for (int64_t head = 0; head < rows * heads; ++head) {
        reference::gated_rms_norm(core.data() + head * n, z.data() + head * n, w.data(), n,
                                  double{1e-6f}, want.data());
        for (int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<size_t>(head * n + i);
          const double exact = want[static_cast<size_t>(i)];
          check.add(head * n + i, out[at], exact, norm_bound(n, 10) * std::abs(exact) + 1e-44);
          ASSERT_EQ(rounded[at], formats::bf16_from_f32(out[at]));
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
