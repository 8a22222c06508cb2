// A stored weight as the numbers it stands for, for comparison with kernels/reference.
#pragma once

#include "formats/linear_weight.h"
#include "kernels/reference/linear.h"

#include <cstdint>

namespace nibble::reference {

/// How a quantized weight becomes a number: its real value (code * scales, no rounding), or the f32
/// value of formats::decode_row_f32.
enum class Decoding { real, f32 };

/// The numbers of row `row`: out [in_features].
void decode_row(const formats::LinearWeight& weight, int64_t row, Decoding decoding, double* out);

/// The numbers of a stored weight.
Matrix decode_matrix(const formats::LinearWeight& weight, Decoding decoding);

}  // namespace nibble::reference
