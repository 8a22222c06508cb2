// Block scale search for NVFP4: better scale bytes in the same file format.
//
// Spec nvfp4.md 4.2 (squared error), 4.3 (four-over-six), 4.5 (error weighted with the second
// moments of the layer's inputs). The search chooses E4M3 bytes; codes follow from
// encode_nvfp4_codes. Plain f32, one order of summation: the same bytes on every machine. Pure
// functions; any thread.
#pragma once

#include "formats/nvfp4_rules.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace nibble::formats {

/// "max", "mse", "four-over-six", "hessian", "gptq".
const char* scale_method_name(ScaleMethod method);
std::optional<ScaleMethod> parse_scale_method(std::string_view name);

/// The tensor's weight_scale_2 that goes with a method: amax / 2688, four-over-six amax / 1536, so
/// that 1.5 times the largest block's scale is still representable.
float tensor_scale_for(ScaleMethod method, float amax, ScalarDivision division);

/// Block scale bytes of one row: row.size() / 16 of them. Of equally good bytes the lowest; an
/// all-zero block gets 0x38 (1.0). Never a zero or a NaN byte.
void search_nvfp4_scales(std::span<const float> row, const ScaleSearch& search,
                         uint8_t* block_scales);

/// What one step of a code is worth under each scale byte: value of byte i + 1 times the tensor's
/// scale, for 0x7E bytes; the last is repeated to fill the array.
std::array<float, 128> nvfp4_scale_units(float tensor_scale);

/// Loss of a block of 16 for one scale byte, in double, as the methods measure it: sum of squared
/// errors, or error^T H error with `moments` ([16][16]). For tests and reports.
double nvfp4_block_loss(std::span<const float> block, float tensor_scale, uint8_t scale,
                        const float* moments);

}  // namespace nibble::formats
