// FP8 weights with one scale per tensor: value = fl( e4m3(code) * weight_scale ).
//
// One E4M3 byte per element, row-major (nvfp4.md 1.7b). The stored weight_scale is the one readers
// use, even where the writer divided by a rounded copy of it.
#pragma once

#include <cstdint>

namespace nibble::formats {

/// codes: k bytes; out: k floats. NaN codes decode to NaN.
void fp8_decode_row(const uint8_t* codes, float weight_scale, int64_t k, float* out) noexcept;

}  // namespace nibble::formats
