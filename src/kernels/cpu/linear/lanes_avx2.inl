// Lanes of two AVX2 vectors, multiply-add fused.

struct Lanes {
  __m256 low, high;
};

inline Lanes load(const float* in) {
  return {_mm256_load_ps(in), _mm256_load_ps(in + 8)};
}
inline void store(float* out, const Lanes& in) {
  _mm256_store_ps(out, in.low);
  _mm256_store_ps(out + 8, in.high);
}
inline Lanes broadcast(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline Lanes multiply(const Lanes& a, const Lanes& b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Lanes multiply_add(const Lanes& a, const Lanes& b, const Lanes& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

inline __m256i load_words(const unsigned char* line) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(line));
}

// E4M3 in the low byte of each lane to f32. A subnormal is read as a normal number one exponent up,
// less 2^-6, so that no f32 denormal appears.
inline __m256 decode_e4m3(__m256i code) {
  const __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(0x7F));
  const __m256i shifted = _mm256_slli_epi32(magnitude, 20);
  const __m256i normal = _mm256_add_epi32(shifted, _mm256_set1_epi32(120 << 23));
  const __m256 small =
      _mm256_sub_ps(_mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(121 << 23))),
                    _mm256_set1_ps(0x1p-6f));
  const __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude);
  const __m256i is_nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7F));
  const __m256 value =
      _mm256_blendv_ps(_mm256_castsi256_ps(normal), small, _mm256_castsi256_ps(is_small));
  const __m256 with_nan = _mm256_blendv_ps(
      value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7FC00000)), _mm256_castsi256_ps(is_nan));
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(0x80)), 24);
  return _mm256_or_ps(with_nan, _mm256_castsi256_ps(sign));
}

inline __m256 decode_scales_half(__m128i bytes) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 20);
  return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(117 << 23)));
}

// Packed scale bytes (packed_weights.h).
inline Lanes decode_scales(const unsigned char* bytes) {
  const __m128i packed = _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
  return {decode_scales_half(packed), decode_scales_half(_mm_srli_si128(packed, 8))};
}

inline void decode_bf16_half(const unsigned char* line, float* out) {
  const __m256i words = load_words(line);
  _mm256_store_ps(out, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
  _mm256_store_ps(out + kPanelRows, _mm256_castsi256_ps(_mm256_and_si256(
                                        words, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u)))));
}

inline void decode_bf16_line(const unsigned char* line, float* out) {
  decode_bf16_half(line, out);
  decode_bf16_half(line + 32, out + 8);
}

inline void decode_fp8_half(const unsigned char* line, __m256 scale, float* out) {
  const __m256i words = load_words(line);
  _mm256_store_ps(out, _mm256_mul_ps(decode_e4m3(words), scale));
  _mm256_store_ps(out + kPanelRows,
                  _mm256_mul_ps(decode_e4m3(_mm256_srli_epi32(words, 16)), scale));
  _mm256_store_ps(out + 2 * kPanelRows,
                  _mm256_mul_ps(decode_e4m3(_mm256_srli_epi32(words, 8)), scale));
  _mm256_store_ps(out + 3 * kPanelRows,
                  _mm256_mul_ps(decode_e4m3(_mm256_srli_epi32(words, 24)), scale));
}

inline void decode_fp8_line(const unsigned char* line, float scale, float* out) {
  decode_fp8_half(line, _mm256_set1_ps(scale), out);
  decode_fp8_half(line + 32, _mm256_set1_ps(scale), out + 8);
}

// The code in the low four bits of each lane (higher bits are ignored) to its value.
inline __m256 decode_e2m1(__m256i code) {
  const __m256 table = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
  const __m256 magnitude = _mm256_permutevar8x32_ps(table, code);
  const __m256i sign = _mm256_slli_epi32(_mm256_and_si256(code, _mm256_set1_epi32(8)), 28);
  return _mm256_or_ps(magnitude, _mm256_castsi256_ps(sign));
}

inline void decode_nvfp4_half(const unsigned char* line, __m256 scale, float* out) {
  const __m256i words = load_words(line);
  for (int j = 0; j < 4; ++j) {
    const __m256i even = _mm256_srli_epi32(words, 4 * j);
    const __m256i odd = _mm256_srli_epi32(words, 16 + 4 * j);
    _mm256_store_ps(out + 2 * j * kPanelRows, _mm256_mul_ps(decode_e2m1(even), scale));
    _mm256_store_ps(out + (2 * j + 1) * kPanelRows, _mm256_mul_ps(decode_e2m1(odd), scale));
  }
}

inline void decode_nvfp4_line(const unsigned char* line, const Lanes& scale, float* out) {
  decode_nvfp4_half(line, scale.low, out);
  decode_nvfp4_half(line + 32, scale.high, out + 8);
}
