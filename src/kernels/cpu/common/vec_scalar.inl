// Vectors of the scalar level: four floats in the compiler's own vector type, baseline x86-64.
//
// Included inside an anonymous namespace of one ISA file, before vec.inl; needs <immintrin.h>.
// Without FMA: v_fma is a product and a sum, each rounded.

constexpr int kLanes = 4;
typedef float Vec __attribute__((vector_size(16)));
typedef int32_t VecI __attribute__((vector_size(16)));
typedef uint32_t VecU __attribute__((vector_size(16)));
typedef uint16_t VecH __attribute__((vector_size(8)));

inline Vec v_set(float x) {
  return _mm_set1_ps(x);
}
inline Vec v_fma(Vec a, Vec b, Vec c) {
  return a * b + c;
}
/// Of two operands one of which is NaN, max and min return b.
inline Vec v_max(Vec a, Vec b) {
  return _mm_max_ps(a, b);
}
inline Vec v_min(Vec a, Vec b) {
  return _mm_min_ps(a, b);
}
inline Vec v_sqrt(Vec a) {
  return _mm_sqrt_ps(a);
}

/// rows[i][j] <- rows[j][i].
inline void v_transpose(Vec* rows) {
  const Vec a = _mm_unpacklo_ps(rows[0], rows[1]), b = _mm_unpackhi_ps(rows[0], rows[1]);
  const Vec c = _mm_unpacklo_ps(rows[2], rows[3]), d = _mm_unpackhi_ps(rows[2], rows[3]);
  rows[0] = _mm_movelh_ps(a, c);
  rows[1] = _mm_movehl_ps(c, a);
  rows[2] = _mm_movelh_ps(b, d);
  rows[3] = _mm_movehl_ps(d, b);
}

/// kLanes E4M3 codes as floats; the two NaN codes give NaN.
inline Vec v_load_e4m3(const uint8_t* p) {
  const VecI code = {p[0], p[1], p[2], p[3]};
  const VecI magnitude = code & 0x7F;
  const VecI normal = (magnitude << 20) + (120 << 23);
  const VecI subnormal = (VecI)(__builtin_convertvector(magnitude, Vec) * v_set(0x1p-9f));
  const VecI value = magnitude < 8 ? subnormal : normal;
  return (Vec)((magnitude == 0x7F ? VecI{} + 0x7FC00000 : value) | ((code & 0x80) << 24));
}

// Register tile of tile_gemm.inl.
constexpr int kTileRows = 4;
constexpr int kTileVecs = 2;
