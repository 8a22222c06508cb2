// FP8 encoding with one scale per tensor, exactly as ModelOpt computes it (spec nvfp4.md 1.7b).
// Pure function; any thread.
#pragma once

#include "formats/nvfp4_rules.h"

#include <cstdint>
#include <span>

namespace nibble::formats {

/// One row for a given weight_scale (amax / 448). The quotient is rounded to BF16, then to E4M3;
/// recip (a GPU) divides by the scale rounded to BF16, although the unrounded one is stored. codes:
/// row.size() bytes.
void fp8_encode_row(std::span<const float> row, float weight_scale, ScalarDivision division,
                    uint8_t* codes);

}  // namespace nibble::formats
