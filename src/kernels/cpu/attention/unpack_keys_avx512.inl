// The key panel at AVX-512; included after unpack.inl.
//
// Two-byte elements are transposed as pairs of dimensions, one pair per 32-bit lane, and become
// floats afterwards: half of the shuffles. E4M3 codes become BF16 first, which is exact.

/// BF16 of 32 E4M3 codes: the exponent moves by 120, codes below 8 come from a table (m * 2^-9).
inline __m512i bf16_from_e4m3(__m256i codes) {
  const __m512i table = _mm512_inserti32x4(
      _mm512_setzero_si512(),
      _mm_setr_epi16(0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60), 0);
  const __m512i wide = _mm512_cvtepu8_epi16(codes);
  const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi16(0x7F));
  const __m512i normal =
      _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
  const __mmask32 small = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7F));
  __m512i value = _mm512_mask_permutexvar_epi16(normal, small, magnitude, table);
  value = _mm512_mask_mov_epi16(value, nan, _mm512_set1_epi16(0x7FC0));
  const __m512i sign = _mm512_slli_epi16(_mm512_sub_epi16(wide, magnitude), 8);
  return _mm512_or_si512(value, sign);
}

/// 32 elements of a stored row as BF16.
inline __m512i load_bf16_words(const unsigned char* row, Element type, int64_t d) {
  if (type == Element::bf16) return _mm512_loadu_si512(row + 2 * d);
  return bf16_from_e4m3(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + d)));
}

/// panel[d][key] for 64 keys; keys from `valid` on are zero.
inline void unpack_keys(const PageSpan& span, Element type, int64_t head_dim, int64_t valid,
                        float* panel) {
  const int64_t paired = type == Element::f32 ? 0 : head_dim / 32 * 32;
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  for (int64_t key = 0; key < kAttentionPage; key += kLanes) {
    const unsigned char* source = span.data + key * span.row_bytes;
    const int64_t left = valid - key;
    for (int64_t d = 0; d < paired; d += 32) {
      Vec rows[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        rows[j] =
            j < left ? (Vec)load_bf16_words(source + j * span.row_bytes, type, d) : v_set(0.0f);
      }
      v_transpose(rows);
      float* target = panel + d * kAttentionPage + key;
      for (int j = 0; j < kLanes; ++j, target += 2 * kAttentionPage) {
        const __m512i pair = (__m512i)rows[j];
        v_store(target, (Vec)_mm512_slli_epi32(pair, 16));
        v_store(target + kAttentionPage, (Vec)_mm512_and_si512(pair, high_half));
      }
    }
  }
  unpack_key_lanes(span, type, paired, head_dim, valid, panel);
}
