// NVFP4 block layout: sizes, packing and the exact decode rule.
//
// A weight row of K elements (K % 16 == 0) is K/2 code bytes, low nibble = even element, and K/16
// E4M3 scale bytes, linear (never swizzled), of which the sign bit is ignored.
// value = fl( fl(e4m3(scale) * tensor_scale) * e2m1(code) ), in this order (nvfp4.md 0, 1.3).
// Pure functions on plain bytes; no allocation; any thread.
#pragma once

#include <cstdint>

namespace nibble::formats {

constexpr int64_t kNvfp4Block = 16;
/// 6 * 448: the largest |value| at tensor_scale 1; tensor_scale = amax / 2688.
constexpr float kNvfp4Max = 2688.0f;

/// Code bytes of one row of k elements.
[[maybe_unused]] static constexpr int64_t nvfp4_code_bytes(int64_t k) {
  return k / 2;
}
/// Scale bytes of one row of k elements.
[[maybe_unused]] static constexpr int64_t nvfp4_scale_bytes(int64_t k) {
  return k / kNvfp4Block;
}

/// The code of element `index` of a packed row.
[[maybe_unused]] static constexpr uint8_t nvfp4_code(const uint8_t* codes, int64_t index) {
  return static_cast<uint8_t>(index % 2 == 0 ? codes[index / 2] & 15 : codes[index / 2] >> 4);
}

/// codes: k/2 bytes; scales: k/16 bytes; out: k floats, not overlapping the inputs.
void nvfp4_decode_row(const uint8_t* codes, const uint8_t* scales, float tensor_scale, int64_t k,
                      float* out) noexcept;

/// True when one of the scale bytes is NaN (0x7F or 0xFF).
bool nvfp4_scales_have_nan(const uint8_t* scales, int64_t count) noexcept;

}  // namespace nibble::formats
