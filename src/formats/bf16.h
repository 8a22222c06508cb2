// BF16 as its 16 bits: the upper half of a float.
//
// Everything here has internal linkage and needs no library, so that files compiled for one ISA
// level may include it without emitting shared symbols: never make these functions `inline`.
#pragma once

#include <cstdint>

namespace nibble::formats {

/// Exact.
[[maybe_unused]] static constexpr float bf16_to_f32(uint16_t bits) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(bits) << 16);
}

/// Nearest even, overflow to infinity; every NaN becomes 0x7FC0, as in PyTorch.
[[maybe_unused]] static constexpr uint16_t bf16_from_f32(float x) {
  if (x != x) return 0x7FC0;
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

/// x rounded to the nearest BF16 value.
[[maybe_unused]] static constexpr float round_to_bf16(float x) {
  return bf16_to_f32(bf16_from_f32(x));
}

}  // namespace nibble::formats
