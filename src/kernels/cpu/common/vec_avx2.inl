// Vectors of the avx2 level: eight floats, with FMA.
//
// Included inside an anonymous namespace of one ISA file, before vec.inl; needs <immintrin.h>.

constexpr int kLanes = 8;
typedef float Vec __attribute__((vector_size(32)));
typedef int32_t VecI __attribute__((vector_size(32)));
typedef uint32_t VecU __attribute__((vector_size(32)));
typedef uint16_t VecH __attribute__((vector_size(16)));

inline Vec v_set(float x) {
  return _mm256_set1_ps(x);
}
inline Vec v_fma(Vec a, Vec b, Vec c) {
  return _mm256_fmadd_ps(a, b, c);
}
/// Of two operands one of which is NaN, max and min return b.
inline Vec v_max(Vec a, Vec b) {
  return _mm256_max_ps(a, b);
}
inline Vec v_min(Vec a, Vec b) {
  return _mm256_min_ps(a, b);
}
inline Vec v_sqrt(Vec a) {
  return _mm256_sqrt_ps(a);
}

/// rows[i][j] <- rows[j][i].
inline void v_transpose(Vec* rows) {
  Vec t[8];
  for (int i = 0; i < 8; i += 4) {
    // Within each 128-bit half: a 4 x 4 transposition of rows i .. i+3.
    const Vec a = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
    const Vec b = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
    const Vec c = _mm256_unpacklo_ps(rows[i + 2], rows[i + 3]);
    const Vec d = _mm256_unpackhi_ps(rows[i + 2], rows[i + 3]);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

/// kLanes E4M3 codes as floats; the two NaN codes give NaN. As f16 a code is its value times 2^-8,
/// subnormals included.
inline Vec v_load_e4m3(const uint8_t* p) {
  const __m128i wide = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  const __m128i magnitude = _mm_and_si128(wide, _mm_set1_epi16(0x7F));
  const __m128i sign = _mm_slli_epi16(_mm_sub_epi16(wide, magnitude), 8);
  const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7F));
  const __m128i nan = _mm_and_si128(is_nan, _mm_set1_epi16(0x7E00));
  const __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(magnitude, 7), sign), nan);
  return _mm256_cvtph_ps(half) * v_set(256.0f);
}

// Register tile of tile_gemm.inl.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 2;
