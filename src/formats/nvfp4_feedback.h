// Rounding to NVFP4 with error feedback (GPTQ, spec nvfp4.md 4.7): the two steps that everything in
// device/host_feedback.cc is made of.
//
// Weights of a row are rounded one after the other, each taking in what the ones before it left, so
// that the error of the row's products with the inputs is small and not that of the single weight;
// the scale of a block is chosen on the way. Plain f32, one order of summation: the same bytes on
// every machine. Pure functions; any thread.
#pragma once

#include "formats/nvfp4_rules.h"

#include <cstdint>

namespace nibble::formats {

/// sums[i][j] += a[k][i] * b[k][j], k ascending. a, b: [count][16]; sums: [16][16].
void add_tile_products(const float* a, const float* b, int64_t count, float* sums);

/// Rounds the block under each candidate scale, last column first, and keeps the nearest; of equals
/// the smallest scale.
RoundedBlock round_block_with_feedback(const BlockTarget& target);

/// First of kFeedbackCandidates neighbouring units worth trying for a block whose largest magnitude
/// is given. units: nvfp4_scale_units, so that unit i belongs to byte i + 1.
int first_feedback_candidate(float largest, const float* units);

}  // namespace nibble::formats
