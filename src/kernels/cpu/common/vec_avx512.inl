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

// Register tile of tile_gemm.inl.
constexpr int kTileRows = 6;
constexpr int kTileVecs = 4;
