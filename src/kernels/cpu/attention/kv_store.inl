// Storing keys and values; included inside an anonymous namespace per ISA level.

/// E4M3 codes of x: nearest even, saturating at +-448; NaN stays NaN (formats/e4m3.h).
inline VecI e4m3_codes(Vec x) {
  const VecI bits = (VecI)x;
  const VecI sign = (bits >> 24) & 0x80;
  const VecI magnitude = (VecI)v_min(v_set(448.0f), (Vec)(bits & 0x7FFFFFFF));
  // Below 2^-6 codes step by 2^-9, one ulp of 2^14: the addition rounds.
  const VecI small = (VecI)((Vec)magnitude + v_set(0x1p14f)) - 0x46800000;
  const VecI odd = (magnitude >> 20) & 1;
  const VecI normal = (magnitude - (120 << 23) + 0x7FFFF + odd) >> 20;
  const VecI code = magnitude < 0x3C800000 ? small : normal;
  return sign | (magnitude > 0x7F800000 ? VecI{} + 0x7F : code);
}

inline void store_row(const float* x, int64_t n, Element type, float scale, void* out) {
  if (type != Element::f8_e4m3) {
    for_vectors(n, [&](int64_t i, int64_t count) {
      v_store_element(out, type, i, v_load_part(x + i, count), count);
    });
    return;
  }
  for_vectors(n, [&](int64_t i, int64_t count) {
    const VecI codes = e4m3_codes(v_load_part(x + i, count) / v_set(scale));
    for (int64_t lane = 0; lane < count; ++lane) {
      static_cast<uint8_t*>(out)[i + lane] = static_cast<uint8_t>(codes[lane]);
    }
  });
}

void kv_store(const KvStoreArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t d = args.head_dim;
  const int64_t element_bytes = args.kv_type == Element::f32    ? 4
                                : args.kv_type == Element::bf16 ? 2
                                                                : 1;
  for (int64_t t = first; t < last; ++t) {
    const int64_t key = args.start + t;
    const int64_t page = args.pages[key / kAttentionPage];
    for (int64_t head = 0; head < args.num_kv_heads; ++head) {
      const int64_t slot =
          ((page * args.num_kv_heads + head) * kAttentionPage + key % kAttentionPage) * d;
      const int64_t source = ((args.first_row + t) * args.num_kv_heads + head) * d;
      store_row(args.k + source, d, args.kv_type, args.k_scale,
                static_cast<unsigned char*>(args.k_pages) + slot * element_bytes);
      store_row(args.v + source, d, args.kv_type, args.v_scale,
                static_cast<unsigned char*>(args.v_pages) + slot * element_bytes);
    }
  }
}
