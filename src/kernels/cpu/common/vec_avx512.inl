// Vectors of the avx512 level: sixteen floats.
//
// Included inside an anonymous namespace of one ISA file, before vec.inl; needs <immintrin.h>.

constexpr int kLanes = 16;
typedef float Vec __attribute__((vector_size(64)));
typedef int32_t VecI __attribute__((vector_size(64)));
typedef uint32_t VecU __attribute__((vector_size(64)));
typedef uint16_t VecH __attribute__((vector_size(32)));

inline Vec v_set(float x) {
  return _mm512_set1_ps(x);
}
inline Vec v_fma(Vec a, Vec b, Vec c) {
  return _mm512_fmadd_ps(a, b, c);
}
/// Of two operands one of which is NaN, max and min return b.
inline Vec v_max(Vec a, Vec b) {
  return _mm512_max_ps(a, b);
}
inline Vec v_min(Vec a, Vec b) {
  return _mm512_min_ps(a, b);
}
inline Vec v_sqrt(Vec a) {
  return _mm512_sqrt_ps(a);
}

/// rows[i][j] <- rows[j][i].
inline void v_transpose(Vec* rows) {
  Vec t[16];
  for (int i = 0; i < 16; i += 4) {
    // Within each 128-bit quarter: a 4 x 4 transposition of rows i .. i+3.
    const Vec a = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
    const Vec b = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
    const Vec c = _mm512_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const Vec d = _mm512_unpackhi_ps(rows[i + 2], rows[i + 3]);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    // Then a 4 x 4 transposition of the quarters.
    const Vec a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
    const Vec b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xDD);
    const Vec c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    const Vec d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xDD);
    rows[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[i + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
    rows[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
}

/// kLanes E4M3 codes as floats; the two NaN codes give NaN. As f16 a code is its value times 2^-8,
/// subnormals included.
inline Vec v_load_e4m3(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi16(0x7F));
  const __m256i sign = _mm256_slli_epi16(_mm256_sub_epi16(wide, magnitude), 8);
  const __m256i is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7F));
  const __m256i nan = _mm256_and_si256(is_nan, _mm256_set1_epi16(0x7E00));
  const __m256i half = _mm256_or_si256(_mm256_or_si256(_mm256_slli_epi16(magnitude, 7), sign), nan);
  return _mm512_cvtph_ps(half) * v_set(256.0f);
}

// Register tile of tile_gemm.inl.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 4;
