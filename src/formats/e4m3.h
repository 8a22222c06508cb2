// E4M3FN, the 8-bit float of block scales, FP8 weights and the FP8 KV cache.
//
// Sign 1, exponent 4 (bias 7), mantissa 3; 0x7F and 0xFF are NaN, no infinity, largest 448 = 0x7E
// (nvfp4.md 1.2). Two encoders: PyTorch's cast, which overflows to NaN and which checkpoints need
// bit for bit, and the saturating one for values made while running (KV cache).
// Everything here has internal linkage and needs no library, so that files compiled for one ISA
// level may include it without emitting shared symbols: never make these functions `inline`.
#pragma once

#include <cstdint>

namespace nibble::formats {

constexpr float kE4m3Max = 448.0f;
constexpr float kE4m3MinSubnormal = 0x1p-9f;

/// Decode table, indexed by the byte. NaN entries are the quiet NaN 0x7FC00000 with the code's
/// sign.
struct E4m3Table {
  float values[256] = {};

  constexpr E4m3Table() {
    for (int code = 0; code < 256; ++code) {
      const uint32_t sign = code & 0x80 ? 0x80000000u : 0u;
      const int exponent = (code >> 3) & 15;
      const int mantissa = code & 7;
      uint32_t bits = 0;
      if ((code & 0x7F) == 0x7F) {
        bits = 0x7FC00000u;
      } else if (exponent == 0) {
        bits = __builtin_bit_cast(uint32_t, static_cast<float>(mantissa) * kE4m3MinSubnormal);
      } else {
        bits = static_cast<uint32_t>(exponent + 120) << 23 | static_cast<uint32_t>(mantissa) << 20;
      }
      values[code] = __builtin_bit_cast(float, bits | sign);
    }
  }
};
constexpr E4m3Table kE4m3;

[[maybe_unused]] static constexpr float e4m3_to_f32(uint8_t code) {
  return kE4m3.values[code];
}

/// PyTorch's cast (CPU and GPU): nearest even including subnormals, NOT saturating: |x| > 464,
/// infinity and NaN give 0x7F with the sign of x.
[[maybe_unused]] static constexpr uint8_t e4m3_from_f32(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t sign = bits >> 24 & 0x80;
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x43E80000) return static_cast<uint8_t>(sign | 0x7F);  // |x| > 464, Inf, NaN
  if (magnitude < 0x3C800000) {
    // Below 2^-6 codes step by 2^-9, which is one ulp of 2^14: the float addition rounds for us.
    const float shifted = __builtin_bit_cast(float, magnitude) + 0x1p14f;
    return static_cast<uint8_t>(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x46800000u));
  }
  // Move the exponent bias from 127 to 7 and round 23 mantissa bits to 3.
  const uint32_t odd = magnitude >> 20 & 1;
  return static_cast<uint8_t>(sign | (magnitude - (120u << 23) + 0x7FFFF + odd) >> 20);
}

/// As e4m3_from_f32, but everything beyond 448, infinity included, gives +-448. NaN stays NaN.
[[maybe_unused]] static constexpr uint8_t e4m3_from_f32_saturating(float x) {
  if (x > kE4m3Max) return 0x7E;
  if (x < -kE4m3Max) return 0xFE;
  return e4m3_from_f32(x);
}

}  // namespace nibble::formats
