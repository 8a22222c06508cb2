// What the tests of the small operations share: levels, inputs, comparison with a bound per
// element.
//
// u is half an ulp of 1 in f32: the relative error of one rounding. Bounds are built from it and
// from the lengths of the sums, never tuned.
#pragma once

#include "base/cpu_features.h"
#include "base/rng.h"
#include "formats/bf16.h"
#include "kernels/cpu/operation_table.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

namespace nibble::cpu {

constexpr double kU = 0x1p-24;
constexpr double kBf16U = 0x1p-8;  // an ulp's worth of a rounding to bf16, relative

/// The tables of every level this machine can run.
inline std::vector<const OperationKernels*> supported_operations() {
  std::vector<const OperationKernels*> tables;
  for (IsaLevel level : isa_levels_up_to(detect_isa_level())) {
    tables.push_back(&operation_kernels(static_cast<int>(level)));
  }
  return tables;
}

/// Uniform in [-scale, scale).
inline std::vector<float> random_floats(int64_t count, uint64_t seed, double scale = 1.0) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>((2 * random_unit(seed, i) - 1) * scale);
  }
  return values;
}

inline std::vector<uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (float value : values) bits.push_back(formats::bf16_from_f32(value));
  return bits;
}

inline std::vector<float> from_bf16(const std::vector<uint16_t>& bits) {
  std::vector<float> values;
  for (uint16_t b : bits) values.push_back(formats::bf16_to_f32(b));
  return values;
}

/// 64-byte aligned floats, filled with NaN: scratch need not be cleared.
class AlignedFloats {
 public:
  explicit AlignedFloats(size_t count)
      : storage_(count + 16, std::numeric_limits<float>::quiet_NaN()) {}
  float* data() {
    const auto address = reinterpret_cast<uintptr_t>(storage_.data());
    return storage_.data() + (64 - address % 64) % 64 / sizeof(float);
  }

 private:
  std::vector<float> storage_;
};

inline void expect_same_bits(const std::vector<float>& a, const std::vector<float>& b,
                             const std::string& what) {
  ASSERT_EQ(a.size(), b.size()) << what;
  for (size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(&a[i], &b[i], sizeof(float)), 0)
        << what << ": element " << i << ": " << a[i] << " and " << b[i];
  }
}

/// |got - want| <= bound for every element; prints the worst offender relative to its bound.
class BoundCheck {
 public:
  explicit BoundCheck(std::string what) : what_(std::move(what)) {}
  ~BoundCheck() {
    EXPECT_LE(worst_, 1.0) << what_ << ": element " << index_ << ": got " << got_ << ", want "
                           << want_ << ", bound " << bound_;
    EXPECT_GT(count_, 0) << what_ << ": nothing was compared";
  }
  BoundCheck(const BoundCheck&) = delete;
  BoundCheck& operator=(const BoundCheck&) = delete;

  void add(int64_t index, double got, double want, double bound) {
    ++count_;
    double ratio = std::abs(got - want) / bound;
    if (got == want) ratio = 0;
    if (std::isnan(ratio)) ratio = std::numeric_limits<double>::infinity();
    if (ratio <= worst_) return;
    worst_ = ratio;
    index_ = index;
    got_ = got;
    want_ = want;
    bound_ = bound;
  }

 private:
  std::string what_;
  double worst_ = 0;
  int64_t index_ = 0, count_ = 0;
  double got_ = 0, want_ = 0, bound_ = 0;
};

}  // namespace nibble::cpu
