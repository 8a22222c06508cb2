// E2M1, the 4-bit element of NVFP4: decode table and the encoder NVIDIA ModelOpt uses.
//
// Bit 3 sign, bits 2..1 exponent (bias 1), bit 0 mantissa; no NaN, no infinity (nvfp4.md 1.1).
// Everything here has internal linkage and needs no library, so that files compiled for one ISA
// level may include it without emitting shared symbols: never make these functions `inline`.
#pragma once

#include <cstdint>

namespace nibble::formats {

constexpr float kE2m1Values[16] = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                   -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};

/// Value of the low four bits of `code`.
[[maybe_unused]] static constexpr float e2m1_to_f32(uint8_t code) {
  return kE2m1Values[code & 15];
}

/// Nearest code, ties to the even code, saturating at 6. -0.0 gives 0, a negative value that rounds
/// to zero gives 8, NaN gives 7 (ModelOpt's results, nvfp4.md 1.1).
[[maybe_unused]] static constexpr uint8_t e2m1_from_f32(float x) {
  if (x != x) return 7;
  const float a = x < 0.0f ? -x : x;
  const int magnitude = (a > 0.25f) + (a >= 0.75f) + (a > 1.25f) + (a >= 1.75f) + (a > 2.5f) +
                        (a >= 3.5f) + (a > 5.0f);
  return static_cast<uint8_t>(magnitude | (x < 0.0f ? 8 : 0));
}

}  // namespace nibble::formats
