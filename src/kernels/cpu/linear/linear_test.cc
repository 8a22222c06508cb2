// Tests of dense linear kernels: every level this machine supports against
// kernels/reference/linear.
//
// Shapes: the model's (K = 2048, 4096, N reduced) and edges (K = 1, N = 1, odd K and N). The bound
// is derived: at most K + 2 roundings of partial sums, one of the tensor scale, and the output's
// own; nothing here is tuned by hand.
#include "kernels/cpu/linear/linear.h"

#include "base/cpu_features.h"
#include "formats/e4m3.h"
#include "kernels/cpu/linear/linear_plan.h"
#include "kernels/cpu/linear/matrices_test.h"
#include "kernels/reference/decode_matrix.h"
#include "kernels/reference/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace nibble::cpu {
namespace {

constexpr double kUnit = 0x1p-24;  // half an ulp of f32
constexpr double kSmallestNormal = 0x1p-126;

struct Product {
  PanelFormat format;
  LinearArithmetic arithmetic;
  int64_t m, n, k;
};

std::string describe(const Product& product, const LinearKernels& kernels) {
  static const char* const kFormats[] = {"bf16", "fp8", "nvfp4"};
  return std::string(kernels.level) + " " + kFormats[static_cast<int>(product.format)] +
         (product.arithmetic == LinearArithmetic::f32 ? " f32" : " exact") + " M " +
         std::to_string(product.m) + " N " + std::to_string(product.n) + " K " +
         std::to_string(product.k);
}

std::vector<const LinearKernels*> supported_kernels() {
  std::vector<const LinearKernels*> out;
  for (const IsaLevel level : isa_levels_up_to(detect_isa_level())) {
    out.push_back(&linear_kernels(static_cast<int>(level)));
  }
  return out;
}

std::vector<Product> all_products(std::vector<std::array<int64_t, 3>> shapes) {
  std::vector<Product> out;
  for (const auto& [m, n, k] : shapes) {
    for (const PanelFormat format : {PanelFormat::bf16, PanelFormat::fp8, PanelFormat::nvfp4}) {
      if (format == PanelFormat::nvfp4 && k % 16 != 0) continue;
      for (const auto arithmetic : {LinearArithmetic::exact, LinearArithmetic::f32}) {
        out.push_back({format, arithmetic, m, n, k});
      }
    }
  }
  return out;
}

/// Input rows in the element type of the arithmetic.
struct Rows {
  Rows(const std::vector<float>& values, LinearArithmetic arithmetic)
      : f32(values), bf16(to_bf16(values)), is_f32(arithmetic == LinearArithmetic::f32) {}
  const void* data(int64_t offset = 0) const {
    return is_f32 ? static_cast<const void*>(f32.data() + offset)
                  : static_cast<const void*>(bf16.data() + offset);
  }
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  bool is_f32;
};

LinearArgs make_args(const Product& product, const Rows& rows, const AlignedBytes& weights,
                     float tensor_scale, float* y) {
  return {.x = rows.data(),
          .x_stride = product.k,
          .x_packed = rows.data(),
          .y = y,
          .y_stride = product.n,
          .y_type = Element::f32,
          .accumulate = false,
          .weights = reinterpret_cast<const unsigned char*>(weights.data()),
          .format = product.format,
          .arithmetic = product.arithmetic,
          .m = product.m,
          .n = product.n,
          .k = product.k,
          .tensor_scale = tensor_scale};
}

/// Runs the layer as the plan for `threads` threads says, tasks in falling order.
void run(const LinearKernels& kernels, LinearArgs args, int threads) {
  const LinearPlan plan =
      plan_linear(kernels, args.arithmetic, args.format, args.m, args.n, args.k, threads);
  AlignedBytes packed(std::max<size_t>(plan.packed_bytes, 1));
  if (plan.pack_tasks > 0) args.x_packed = packed.data();
  for (int64_t task = 0; task < plan.pack_tasks; ++task) {
    kernels.pack_rows(args, packed.data(), pack_task_begin(plan, task),
                      pack_task_begin(plan, task + 1));
  }
  for (int64_t task = plan.tasks; task-- > 0;) kernels.linear(args, linear_task(plan, task));
}

reference::Decoding decoding_of(LinearArithmetic arithmetic) {
  return arithmetic == LinearArithmetic::f32 ? reference::Decoding::f32 : reference::Decoding::real;
}

/// The largest error a kernel may make. Additions below 2^-126 may be flushed to zero, and BF16
/// denormals of x or W read as zero (vdpbf16ps), which `flushed` bounds.
double bound(const reference::Sum& sum, int64_t k, double flushed) {
  return static_cast<double>(k + 3) * (kUnit * sum.magnitude * (1 + 0x1p-10) + kSmallestNormal) +
         flushed;
}

/// Sum over k of |x * w| where one factor is denormal.
double flushed_magnitude(const std::vector<double>& x, int64_t row, const reference::Matrix& matrix,
                         int64_t column) {
  double sum = 0;
  for (int64_t i = 0; i < matrix.k; ++i) {
    const double a = std::fabs(x[static_cast<size_t>(row * matrix.k + i)]);
    const double b = std::fabs(matrix.values[static_cast<size_t>(column * matrix.k + i)]);
    if (a < kSmallestNormal || b < kSmallestNormal) sum += a * b;
  }
  return sum;
}

void check_against_reference(const Product& product, Values x_values, Values w_values) {
  const TestMatrix weight(product.format, product.n, product.k, w_values, 11);
  const AlignedBytes packed = weight.pack();
  const Rows rows(test_rows(product.m, product.k, x_values, 12), product.arithmetic);
  const std::vector<double> x(rows.f32.begin(), rows.f32.end());
  const reference::Matrix matrix =
      reference::decode_matrix(weight.view(), decoding_of(product.arithmetic));
  const std::vector<reference::Sum> expected = reference::linear(x, product.m, matrix);
  for (const LinearKernels* kernels : supported_kernels()) {
    SCOPED_TRACE(describe(product, *kernels));
    std::vector<float> y(expected.size(), -1.0f);
    run(*kernels, make_args(product, rows, packed, weight.tensor_scale(), y.data()), 2);
    for (size_t i = 0; i < y.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / product.n;
      const auto column = static_cast<int64_t>(i) % product.n;
      const double limit = bound(expected[i], product.k, flushed_magnitude(x, row, matrix, column));
      ASSERT_LE(std::fabs(y[i] - expected[i].value), limit)
          << "row " << row << " column " << column << " found " << y[i] << " expected "
          << expected[i].value << " magnitude " << expected[i].magnitude;
    }
  }
}

TEST(Linear, MatchesReferenceOnModelShapes) {
  for (const Product& product : all_products({{1, 96, 2048}, {17, 64, 2048}, {5, 32, 4096}})) {
    check_against_reference(product, Values::normal, Values::normal);
  }
}

TEST(Linear, MatchesReferenceOnEdgeShapes) {
  for (const Product& product : all_products({{1, 1, 1},
                                              {3, 1, 48},
                                              {1, 331, 48},
                                              {37, 16, 7},
                                              {13, 33, 100},
                                              {2, 17, 80},
                                              {33, 50, 16},
                                              {29, 5, 272},
                                              {4, 70, 33},
                                              {1, 40, 255}})) {
    check_against_reference(product, Values::normal, Values::normal);
  }
}

TEST(Linear, MatchesReferenceOnExtremeValues) {
  constexpr Values kKinds[] = {Values::normal, Values::zeros, Values::denormal, Values::huge};
  for (const Product& product : all_products({{3, 21, 96}, {14, 34, 64}})) {
    for (const Values x : kKinds) {
      for (const Values w : kKinds) check_against_reference(product, x, w);
    }
  }
}

TEST(Linear, BitsDoNotDependOnBatchSplitOrThreads) {
  for (const Product& product : all_products({{37, 70, 272}, {50, 35, 1024}, {37, 331, 48}})) {
    const TestMatrix weight(product.format, product.n, product.k, Values::normal, 21);
    const AlignedBytes packed = weight.pack();
    const Rows rows(test_rows(product.m, product.k, Values::normal, 22), product.arithmetic);
    for (const LinearKernels* kernels : supported_kernels()) {
      SCOPED_TRACE(describe(product, *kernels));
      const auto size = static_cast<size_t>(product.m * product.n);
      std::vector<float> together(size), split(size), single(size);
      LinearArgs args = make_args(product, rows, packed, weight.tensor_scale(), together.data());
      run(*kernels, args, 1);
      args.y = split.data();
      run(*kernels, args, 64);
      for (int64_t row = 0; row < product.m; ++row) {
        args.m = 1;
        args.x = rows.data(row * product.k);
        args.x_packed = args.x;
        args.y = single.data() + row * product.n;
        run(*kernels, args, 3);
      }
      EXPECT_EQ(std::memcmp(together.data(), split.data(), size * 4), 0);
      EXPECT_EQ(std::memcmp(together.data(), single.data(), size * 4), 0);
    }
  }
}

TEST(Linear, AddsAndRounds) {
  for (const Product& product : all_products({{3, 37, 64}, {21, 16, 64}})) {
    const TestMatrix weight(product.format, product.n, product.k, Values::normal, 31);
    const AlignedBytes packed = weight.pack();
    const Rows rows(test_rows(product.m, product.k, Values::normal, 32), product.arithmetic);
    for (const LinearKernels* kernels : supported_kernels()) {
      SCOPED_TRACE(describe(product, *kernels));
      const auto size = static_cast<size_t>(product.m * product.n);
      std::vector<float> plain(size), added = test_rows(product.m, product.n, Values::normal, 33);
      const std::vector<float> before = added;
      std::vector<uint16_t> rounded(size);
      LinearArgs args = make_args(product, rows, packed, weight.tensor_scale(), plain.data());
      run(*kernels, args, 2);
      args.y = rounded.data();
      args.y_type = Element::bf16;
      run(*kernels, args, 2);
      args.y = added.data();
      args.y_type = Element::f32;
      args.accumulate = true;
      run(*kernels, args, 2);
      for (size_t i = 0; i < size; ++i) {
        ASSERT_EQ(added[i], before[i] + plain[i]) << i;
        ASSERT_EQ(rounded[i], formats::bf16_from_f32(plain[i])) << i;
      }
    }
  }
}

// 1 + 2^-8 lies between two BF16 numbers and goes to the even one below, 1 + 3 * 2^-8 to the one
// above.
TEST(Linear, RoundsTiesToEvenAndNanToTheQuietOne) {
  const Product product{PanelFormat::bf16, LinearArithmetic::exact, 1, 3, 2};
  TestMatrix weight(product.format, 3, 2, Values::zeros, 0);
  const uint16_t values[6] = {formats::bf16_from_f32(1),
                              formats::bf16_from_f32(0x1p-8f),
                              formats::bf16_from_f32(1),
                              formats::bf16_from_f32(0x3p-8f),
                              0xFFC1,
                              formats::bf16_from_f32(0)};
  std::memcpy(weight.bytes(), values, sizeof values);
  const AlignedBytes packed = weight.pack();
  const Rows rows({1.0f, 1.0f}, product.arithmetic);
  for (const LinearKernels* kernels : supported_kernels()) {
    SCOPED_TRACE(describe(product, *kernels));
    uint16_t y[3];
    LinearArgs args = make_args(product, rows, packed, 1.0f, nullptr);
    args.y = y;
    args.y_type = Element::bf16;
    run(*kernels, args, 1);
    EXPECT_EQ(y[0], formats::bf16_from_f32(1));
    EXPECT_EQ(y[1], formats::bf16_from_f32(1 + 0x1p-6f));
    EXPECT_EQ(y[2], 0x7FC0);
  }
}

TEST(Linear, NanInOneRowStaysInThatRow) {
  for (const Product& product : all_products({{9, 33, 80}, {1, 33, 80}})) {
    const TestMatrix weight(product.format, product.n, product.k, Values::normal, 41);
    const AlignedBytes packed = weight.pack();
    std::vector<float> values = test_rows(product.m, product.k, Values::normal, 42);
    const int64_t poisoned = product.m / 2;
    values[static_cast<size_t>(poisoned * product.k + 19)] = std::nanf("");
    const Rows rows(values, product.arithmetic);
    for (const LinearKernels* kernels : supported_kernels()) {
      SCOPED_TRACE(describe(product, *kernels));
      std::vector<float> y(static_cast<size_t>(product.m * product.n));
      run(*kernels, make_args(product, rows, packed, weight.tensor_scale(), y.data()), 2);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(std::isnan(y[i]), static_cast<int64_t>(i) / product.n == poisoned) << i;
      }
    }
  }
}

TEST(Linear, NanWeightStaysInItsColumn) {
  for (const Product& product : all_products({{9, 33, 80}, {1, 33, 80}})) {
    if (product.format == PanelFormat::nvfp4) continue;  // has no NaN code
    TestMatrix weight(product.format, product.n, product.k, Values::normal, 51);
    constexpr int64_t kColumn = 18;
    const int64_t element = kColumn * product.k + 77;
    if (product.format == PanelFormat::fp8) {
      weight.bytes()[element] = 0xFF;
    } else {
      weight.bytes()[element * 2] = 0xC0;
      weight.bytes()[element * 2 + 1] = 0x7F;
    }
    const AlignedBytes packed = weight.pack();
    const Rows rows(test_rows(product.m, product.k, Values::normal, 52), product.arithmetic);
    for (const LinearKernels* kernels : supported_kernels()) {
      SCOPED_TRACE(describe(product, *kernels));
      std::vector<float> y(static_cast<size_t>(product.m * product.n));
      run(*kernels, make_args(product, rows, packed, weight.tensor_scale(), y.data()), 2);
      for (size_t i = 0; i < y.size(); ++i) {
        ASSERT_EQ(std::isnan(y[i]), static_cast<int64_t>(i) % product.n == kColumn) << i;
      }
    }
  }
}

// Every FP8 byte, and every byte of two NVFP4 codes at the largest block scale: sums with x = 1 are
// exact.
TEST(Linear, DecodesEveryCodeExactly) {
  constexpr int64_t kCodes = 256;
  for (const Product& product : all_products({{1, kCodes, 16}})) {
    if (product.format == PanelFormat::bf16) continue;
    TestMatrix weight(product.format, product.n, product.k, Values::huge, 61);
    const bool is_fp8 = product.format == PanelFormat::fp8;
    std::memset(weight.bytes(), 0, static_cast<size_t>(kCodes * (is_fp8 ? 16 : 8)));
    for (int64_t code = 0; code < kCodes; ++code) {
      weight.bytes()[code * (is_fp8 ? 16 : 8) + 5] = static_cast<uint8_t>(code);
    }
    const AlignedBytes packed = weight.pack();
    const Rows rows(std::vector<float>(16, 1.0f), product.arithmetic);
    const reference::Matrix matrix =
        reference::decode_matrix(weight.view(), decoding_of(product.arithmetic));
    for (const LinearKernels* kernels : supported_kernels()) {
      SCOPED_TRACE(describe(product, *kernels));
      std::vector<float> y(kCodes);
      run(*kernels, make_args(product, rows, packed, weight.tensor_scale(), y.data()), 2);
      for (int64_t code = 0; code < kCodes; ++code) {
        double sum = 0;
        for (int64_t i = 0; i < 16; ++i) sum += matrix.values[static_cast<size_t>(code * 16 + i)];
        const float expected = static_cast<float>(sum);
        if (std::isnan(expected)) {
          ASSERT_TRUE(std::isnan(y[static_cast<size_t>(code)])) << code;
        } else {
          ASSERT_EQ(y[static_cast<size_t>(code)], expected) << code;
        }
      }
    }
  }
}

// Every block scale byte but NaN, sign included: one code of value 1.5 a row, x = 1.
TEST(Linear, DecodesEveryBlockScaleExactly) {
  constexpr int64_t kBytes = 256;
  for (const Product& product : all_products({{1, kBytes, 16}})) {
    if (product.format != PanelFormat::nvfp4) continue;
    TestMatrix weight(product.format, product.n, product.k, Values::normal, 71);
    std::memset(weight.bytes(), 0x33, kBytes * 8);
    for (int64_t byte = 0; byte < kBytes; ++byte) {
      weight.scale_bytes()[byte] = static_cast<uint8_t>((byte & 0x7F) == 0x7F ? 0x7E : byte);
    }
    const AlignedBytes packed = weight.pack();
    const Rows rows(std::vector<float>(16, 1.0f), product.arithmetic);
    for (const LinearKernels* kernels : supported_kernels()) {
      SCOPED_TRACE(describe(product, *kernels));
      std::vector<float> y(kBytes);
      LinearArgs args = make_args(product, rows, packed, 1.0f, y.data());
      run(*kernels, args, 2);
      for (size_t byte = 0; byte < kBytes; ++byte) {
        ASSERT_EQ(y[byte], 24.0f * formats::e4m3_to_f32(weight.scale_bytes()[byte] & 0x7F)) << byte;
      }
    }
  }
}

TEST(LinearPlan, TasksCoverEveryElementOnce) {
  for (const LinearKernels* kernels : supported_kernels()) {
    for (const Product& product :
         all_products({{1, 2048, 2048}, {600, 100, 4096}, {193, 4096, 64}, {2, 1, 16}})) {
      SCOPED_TRACE(describe(product, *kernels));
      const LinearPlan plan = plan_linear(*kernels, product.arithmetic, product.format, product.m,
                                          product.n, product.k, 3);
      std::vector<int> seen(static_cast<size_t>(product.m * num_panels(product.n)));
      for (int64_t task = 0; task < plan.tasks; ++task) {
        const LinearRange range = linear_task(plan, task);
        ASSERT_LE(range.row_end - range.row_begin, kMaxRangeRows);
        for (int64_t row = range.row_begin; row < range.row_end; ++row) {
          for (int64_t panel = range.panel_begin; panel < range.panel_end; ++panel) {
            ++seen[static_cast<size_t>(row * plan.panels + panel)];
          }
        }
      }
      EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), static_cast<int64_t>(seen.size()));
      EXPECT_LE(plan.packed_bytes,
                packed_rows_bytes(*kernels, product.arithmetic, product.m, product.k));
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
