// The rounding of Activations::fp8 in plain words, and the row scales of nvfp4: the oracle of their
// checks.
#pragma once

#include "kernels/reference/linear.h"
#include "selftest/random_data.h"

#include <cstdint>
#include <vector>

namespace nibble::selftest {

float largest_magnitude(const float* x, int64_t count);

/// The smallest power of two with which the row's largest magnitude is at most `top`; 1 for zeros.
float row_scale(const float* row, int64_t k, double top);
inline constexpr double kFp8Largest = 448.0;

/// Every value as e4m3(x / scale) * scale of its row of k.
std::vector<float> round_fp8_rows(std::vector<float> x, int64_t k);

/// What a weight is in an FP8 product, tensor scale included: BF16 rows rounded as above, FP8 as
/// stored, NVFP4 e4m3(code * block scale / 8) * 8.
reference::Matrix fp8_matrix(const OwnedWeight& weight);

}  // namespace nibble::selftest
