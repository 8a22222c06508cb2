// Rotary angles: the cosine and sine table of a step's rows (qwen3_5_moe.md 3.4).
//
// Compiled once, without ISA flags: positions reach 262143 radians, so the angles need libm's full
// argument reduction; the table has only rotary_dim / 2 pairs per row. The same for every layer:
// compute it once per step.
#pragma once

#include <cstdint>

namespace nibble::cpu {

/// inverse[j] = 1 / theta^(2j / rotary_dim) in f32, j < rotary_dim / 2.
void rope_inverse_frequencies(double theta, int64_t rotary_dim, float* inverse) noexcept;

struct RopeTableArgs {
  const int32_t* positions;  // [rows][3]: T, H, W
  const float* inverse_frequencies;  // [rotary_dim / 2]
  float* table;  // [rows][2][rotary_dim / 2]: cosines, then sines
  int64_t rotary_dim;
  int32_t mrope_section[3];  // pairs of T, H, W, dealt out interleaved
};

/// Rows [first, last); any number of threads on disjoint rows.
void rope_table(const RopeTableArgs& args, int64_t first, int64_t last) noexcept;

}  // namespace nibble::cpu
