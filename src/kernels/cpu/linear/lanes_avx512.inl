// Lanes of one AVX-512 vector, multiply-add fused.

using Lanes = __m512;

inline Lanes load(const float* in) {
  return _mm512_load_ps(in);
}
inline void store(float* out, Lanes in) {
  _mm512_store_ps(out, in);
}
inline Lanes broadcast(float x) {
  return _mm512_set1_ps(x);
}
inline Lanes multiply(Lanes a, Lanes b) {
  return _mm512_mul_ps(a, b);
}
inline Lanes multiply_add(Lanes a, Lanes b, Lanes c) {
  return _mm512_fmadd_ps(a, b, c);
}

inline __m512i load_words(const unsigned char* line) {
  return _mm512_load_si512(line);
}

// E4M3 in the low byte of each lane to f32. A subnormal is read as a normal number one exponent up,
// less 2^-6, so that no f32 denormal appears.
inline __m512 decode_e4m3(__m512i code) {
  const __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(0x7F));
  const __m512i shifted = _mm512_slli_epi32(magnitude, 20);
  const __m512 normal =
      _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(120 << 23)));
  const __mmask16 is_small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8));
  const __m512 value = _mm512_mask_sub_ps(
      normal, is_small,
      _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(121 << 23))),
      _mm512_set1_ps(0x1p-6f));
  const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7F));
  const __m512i bits =
      _mm512_mask_mov_epi32(_mm512_castps_si512(value), is_nan, _mm512_set1_epi32(0x7FC00000));
  const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(code, _mm512_set1_epi32(0x80)), 24);
  return _mm512_castsi512_ps(_mm512_or_si512(bits, sign));
}

// Packed scale bytes (packed_weights.h).
inline Lanes decode_scales(const unsigned char* bytes) {
  const __m512i codes =
      _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_slli_epi32(codes, 20), _mm512_set1_epi32(117 << 23)));
}

inline void decode_bf16_line(const unsigned char* line, float* out) {
  const __m512i words = load_words(line);
  store(out, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
  store(out + kPanelRows, _mm512_castsi512_ps(_mm512_and_si512(
                              words, _mm512_set1_epi32(static_cast<int>(0xFFFF0000u)))));
}

inline void decode_fp8_line(const unsigned char* line, float scale, float* out) {
  const __m512i words = load_words(line);
  const Lanes scales = broadcast(scale);
  store(out, multiply(decode_e4m3(words), scales));
  store(out + kPanelRows, multiply(decode_e4m3(_mm512_srli_epi32(words, 16)), scales));
  store(out + 2 * kPanelRows, multiply(decode_e4m3(_mm512_srli_epi32(words, 8)), scales));
  store(out + 3 * kPanelRows, multiply(decode_e4m3(_mm512_srli_epi32(words, 24)), scales));
}

inline void decode_nvfp4_line(const unsigned char* line, Lanes scale, float* out) {
  const __m512 table = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f,
                                      -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
  const __m512i words = load_words(line);
  // The table lookup reads the low four bits of each lane only.
  NIBBLE_UNROLL
  for (unsigned j = 0; j < 4; ++j) {
    const __m512i even = _mm512_srli_epi32(words, 4 * j);
    const __m512i odd = _mm512_srli_epi32(words, 16 + 4 * j);
    store(out + 2 * j * kPanelRows, multiply(_mm512_permutexvar_ps(even, table), scale));
    store(out + (2 * j + 1) * kPanelRows, multiply(_mm512_permutexvar_ps(odd, table), scale));
  }
}
