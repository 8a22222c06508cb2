// Whose NVFP4 bytes are written: what differs between ModelOpt's versions and machines (spec
// nvfp4.md 1.4, 1.5), and how block scales are chosen (4.2-4.5).
//
// Plain types, apart from the encoder so that the device interface can name them.
#pragma once

#include <cstdint>

namespace nibble::formats {

/// How a division by a constant is done: ieee divides (ModelOpt on a CPU), recip multiplies by the
/// rounded reciprocal (ModelOpt on a GPU, and the published files).
enum class ScalarDivision { recip, ieee };

/// Which ModelOpt's bytes: the last bit of scalar divisions, and the range of block scales.
struct Nvfp4Rules {
  ScalarDivision division = ScalarDivision::recip;
  bool clamps_block_scales = true;  // to [2^-9, 448] before rounding: 0.45 and later
};

/// How block scales are chosen. max: from the block's largest magnitude (ModelOpt's max rule). gptq
/// chooses the codes too (nvfp4_feedback.h).
enum class ScaleMethod { max, mse, four_over_six, hessian, gptq };

/// What the blocks of one matrix are searched with.
struct ScaleSearch {
  ScaleMethod method = ScaleMethod::mse;  // any but max and gptq
  float amax = 0;  // of the tensor, or of the group that shares its scale
  Nvfp4Rules rules;
  /// hessian: [K/16][16][16] f32, symmetric: mean of x x^T over the inputs x of each block of
  /// columns. Null, or a block whose trace is 0 or not finite: squared error (with H = 0 every
  /// scale would cost nothing and the block be lost).
  const float* moments = nullptr;
};

/// How many neighbouring scale bytes are tried for a block that is rounded with error feedback.
inline constexpr int kFeedbackCandidates = 32;

/// A block of 16 weights to be rounded with error feedback.
struct BlockTarget {
  const float* centers;  // [16]: what the values should be near to
  const float* triangle;  // [16][16], upper: distances are lengths of triangle * difference
  const float* units;  // [kFeedbackCandidates], rising: what a code of 1 is worth
  const float* inverse_units;
};

struct RoundedBlock {
  float values[16];  // code times unit
  float loss = 0;  // squared length of triangle * (centers - values)
  int32_t chosen = 0;  // index of the unit
};

}  // namespace nibble::formats
