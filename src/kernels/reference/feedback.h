// The steps of rounding with error feedback, in double: the oracle of kernels/cpu/feedback.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// A value, and how far a computation in f32 may lie from it.
struct BoundedValue {
  double value = 0;
  double f32_bound = 0;
};

/// start + sum of a[k][i] b[k][j]; a, b: [count][16].
BoundedValue tile_product(const float* a, const float* b, int64_t count, int i, int j, float start);

/// A block rounded under one unit.
struct FeedbackPath {
  double values[16];
  BoundedValue loss;  // squared length of triangle * (centers - values)
  /// False where a weight lies so near the middle of two codes that f32 may take the other one, and
  /// all that follows may differ.
  bool is_clear = true;
};

FeedbackPath feedback_path(const float* centers, const float* triangle, float unit);

}  // namespace nibble::reference
