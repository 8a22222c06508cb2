// Rounding with error feedback for NVFP4: argument structs and the kernel table of each ISA level.
//
// The bytes are those of formats/nvfp4_feedback.h at every level: products and sums are separate,
// in one order, and lanes are outputs or candidates, never parts of a sum (spec nvfp4.md 4.7).
#pragma once

#include "kernels/cpu/common/element.h"  // vec.inl wants it

#include <cstdint>

namespace nibble::cpu {

/// sums[i][j] += a[k][i] * b[k][j], k ascending. a, b: [count][16]; sums: [16][16].
struct TileProductArgs {
  const float* a;
  const float* b;
  int64_t count;
  float* sums;
};

/// One block of 16 weights under 32 scales: the values nearest to the centers, last column first,
/// each taking in what the ones before it left, in the metric of the triangle (upper, [16][16]).
struct RoundBlockArgs {
  const float* centers;  // [16]
  const float* triangle;
  const float* units;  // [32], rising: what a code of 1 is worth
  const float* inverse_units;  // [32]
  float* values;  // [16] out: code times unit
  float* loss;  // out: squared length of triangle * (centers - values)
  int32_t* chosen;  // out: index of the unit, the lowest of equals
};

/// Any number of threads on disjoint outputs.
struct FeedbackKernels {
  void (*add_tile_products)(const TileProductArgs& args) noexcept;
  void (*round_block)(const RoundBlockArgs& args) noexcept;
};

namespace scalar {
extern const FeedbackKernels kFeedbackKernels;
}
namespace avx2 {
extern const FeedbackKernels kFeedbackKernels;
}
namespace avx512 {
extern const FeedbackKernels kFeedbackKernels;
}

}  // namespace nibble::cpu
