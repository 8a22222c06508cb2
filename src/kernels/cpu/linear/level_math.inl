// Small scalar functions of the matrix products' epilogues. Included in an anonymous namespace.

// Nearest even; every NaN becomes 0x7FC0 (the twin of formats/bf16.h, which ISA files do not
// include).
inline uint16_t round_to_bf16(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const bool is_nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<uint16_t>(is_nan ? 0x7FC0u : rounded);
}

// e^x for x <= 0 or NaN, relative error below 2^-22; 0 below -87.3. Branch-free, so that loops over
// it vectorise: n = round(x / ln 2) by adding 1.5 * 2^23, a degree 6 polynomial on |r| <= ln(2)/2.
inline float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;
  const float clamped = x < -87.0f ? -87.0f : x;  // NaN stays
  const float shifted = clamped * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t exponent = (__builtin_bit_cast(uint32_t, shifted) + 127u) << 23;
  return x < -87.0f ? 0.0f : p * __builtin_bit_cast(float, exponent);
}

// x * sigmoid(x), from e^-|x| so that nothing overflows.
inline float silu(float x) {
  const float e = exp_nonpositive(x < 0.0f ? x : -x);
  const float numerator = x < 0.0f ? e : 1.0f;
  return x * numerator / (1.0f + e);
}

inline int64_t level_panel_bytes(PanelFormat format, int64_t blocks) {
  if (format == PanelFormat::nvfp4) return (blocks + 3) / 4 * 576;
  return blocks * (format == PanelFormat::bf16 ? 512 : 256);
}
