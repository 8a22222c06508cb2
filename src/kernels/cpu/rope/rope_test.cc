// Tests for rotary tables and query/key norm: every level against kernels/reference/rope.cc.
//
// Table: libm's sine and cosine, u each; the inverse frequencies must be equal in f32 up to u, so
// the table is compared for the angle the kernel's own f32 frequencies give. Norm and rotation: the
// norm's bound (norm_test.cc) on both members of a pair, and four roundings more.
#include "kernels/cpu/rope/rope.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/cpu/rope/rope_table.h"
#include "kernels/reference/rope.h"

namespace nibble::cpu {
namespace {

constexpr int32_t kSection[3] = {11, 11, 10};

TEST(RopeTable, LongAndMixedPositions) {
  const std::vector<int32_t> positions = {0, 0,      0,      1, 1, 1,  7, 11, 300,
                                          5, 262143, 199999, 4, 9, 12, 0, 1,  131071};
  const int64_t rows = 6, pairs = 32;
  std::vector<float> inverse(pairs), table(rows * 2 * pairs);
  rope_inverse_frequencies(1e7, 64, inverse.data());
  rope_table({positions.data(), inverse.data(), table.data(), 64, {11, 11, 10}}, 0, rows);
  std::vector<double> cosines(pairs), sines(pairs);
  BoundCheck check("rope_table");
  for (int64_t r = 0; r < rows; ++r) {
    reference::rope_angles(positions.data() + 3 * r, 1e7, 64, kSection, cosines.data(),
                           sines.data());
    for (int64_t j = 0; j < pairs; ++j) {
      const auto at = static_cast<size_t>(r * 2 * pairs + j);
      const auto pair = static_cast<size_t>(j);
      check.add(r * pairs + j, table[at], cosines[pair], 2 * kU);
      check.add(r * pairs + j, table[at + pairs], sines[pair], 2 * kU);
    }
  }
}

TEST(RopeTable, AxisPattern) {
  // Distinct positions per axis; T turns pairs 0, 3, .., 30; H 1, 4, .., 31; W 2, 5, .., 29.
  const std::vector<int32_t> position = {100, 200, 300};
  std::vector<float> inverse(32), table(64);
  rope_inverse_frequencies(1e7, 64, inverse.data());
  rope_table({position.data(), inverse.data(), table.data(), 64, {11, 11, 10}}, 0, 1);
  for (size_t j = 0; j < 32; ++j) {
    const float p = j % 3 == 1 ? 200.0f : j % 3 == 2 ? 300.0f : 100.0f;
    EXPECT_EQ(table[j], std::cos(p * inverse[j])) << j;
  }
}

struct Geometry {
  int64_t heads, kv_heads, head_dim, rotary_dim;
};

void check_geometry(const OperationKernels& level, Geometry g) {
  const int64_t rows = 3, d = g.head_dim, pairs = g.rotary_dim / 2;
  const auto q_gate = random_floats(rows * g.heads * 2 * d, 41);
  const auto k_in = random_floats(rows * g.kv_heads * d, 42, 100.0);
  const auto q_norm = random_floats(d, 43), k_norm = random_floats(d, 44);
  const std::vector<int32_t> positions = {3, 3, 3, 70, 71, 72, 262143, 262143, 262143};
  std::vector<float> inverse(static_cast<size_t>(pairs)),
      table(static_cast<size_t>(rows * 2 * pairs));
  rope_inverse_frequencies(1e7, g.rotary_dim, inverse.data());
  rope_table({positions.data(), inverse.data(), table.data(), g.rotary_dim, {11, 11, 10}}, 0, rows);
  std::vector<float> q(q_gate.size() / 2), gate(q_gate.size() / 2);
  auto k = k_in;
  const QkNormRopeArgs args{q_gate.data(), q.data(),     gate.data(), k.data(),   q_norm.data(),
                            k_norm.data(), table.data(), g.heads,     g.kv_heads, d,
                            g.rotary_dim,  1e-6f};
  level.rope.qk_norm_rope(args, 0, 1);
  level.rope.qk_norm_rope(args, 1, rows);

  BoundCheck check(std::string("qk_norm_rope ") + level.level);
  const double relative = ((static_cast<double>(d) / 4 + 8) / 2 + 12) * kU;
  std::vector<double> want(static_cast<size_t>(d));
  const auto compare = [&](int64_t row, const float* x, const float* weight, const float* got) {
    const std::vector<double> cosines(table.begin() + row * 2 * pairs,
                                      table.begin() + row * 2 * pairs + pairs);
    const std::vector<double> sines(table.begin() + row * 2 * pairs + pairs,
                                    table.begin() + (row + 1) * 2 * pairs);
    reference::norm_rotate(x, weight, cosines.data(), sines.data(), d, pairs, double{1e-6f},
                           want.data());
    double largest = 0;
    for (int64_t i = 0; i < d; ++i)
      largest = std::max(largest, std::abs(want[static_cast<size_t>(i)]));
    for (int64_t i = 0; i < d; ++i) {
      check.add(i, got[i], want[static_cast<size_t>(i)], relative * 4 * largest);
    }
  };
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t h = 0; h < g.heads; ++h) {
      const int64_t head = row * g.heads + h;
      compare(row, q_gate.data() + head * 2 * d, q_norm.data(), q.data() + head * d);
      for (int64_t i = 0; i < d; ++i) {
        ASSERT_EQ(gate[static_cast<size_t>(head * d + i)],
                  q_gate[static_cast<size_t>((head * 2 + 1) * d + i)]);
      }
    }
    for (int64_t h = 0; h < g.kv_heads; ++h) {
      const int64_t head = row * g.kv_heads + h;
      compare(row, k_in.data() + head * d, k_norm.data(), k.data() + head * d);
    }
  }
}

TEST(QkNormRope, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    check_geometry(*level, {16, 2, 256, 64});
    check_geometry(*level, {3, 1, 256, 64});
    check_geometry(*level, {2, 2, 48, 12});
    check_geometry(*level, {1, 1, 16, 16});
  }
}

}  // namespace
}  // namespace nibble::cpu
