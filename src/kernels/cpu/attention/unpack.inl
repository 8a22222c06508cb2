// Pages to floats: values as rows, keys as a transposed panel; included inside an anonymous
// namespace per ISA level.

/// Elements [d, d + count) of a stored row, as floats; codes without their scale.
inline Vec load_kv(const unsigned char* row, Element type, int64_t d, int64_t count) {
  if (type != Element::f8_e4m3) return v_load_element(row, type, d, count);
  if (count == kLanes) return v_load_e4m3(row + d);
  uint8_t codes[kLanes] = {};
  __builtin_memcpy(codes, row + d, static_cast<size_t>(count));
  return v_load_e4m3(codes);
}

/// Bytes of one page's values of one head, and where they start.
struct PageSpan {
  const unsigned char* data;
  int64_t row_bytes;
};

inline PageSpan page_span(const AttentionArgs& args, const void* pages, int64_t block,
                          int64_t kv_head) {
  const int64_t element_bytes = args.kv_type == Element::f32    ? 4
                                : args.kv_type == Element::bf16 ? 2
                                                                : 1;
  const int64_t row_bytes = args.head_dim * element_bytes;
  const int64_t head = args.pages[block] * args.num_kv_heads + kv_head;
  return {static_cast<const unsigned char*>(pages) + head * kAttentionPage * row_bytes, row_bytes};
}

/// panel[d][key] for 64 keys and dimensions [first, last); keys from `valid` on are zero (their
/// memory may hold anything).
inline void unpack_key_lanes(const PageSpan& span, Element type, int64_t first, int64_t last,
                             int64_t valid, float* panel) {
  for (int64_t key = 0; key < kAttentionPage; key += kLanes) {
    const unsigned char* source = span.data + key * span.row_bytes;
    for_vectors(last - first, [&](int64_t i, int64_t count) {
      const int64_t d = first + i;
      Vec rows[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        rows[j] =
            key + j < valid ? load_kv(source + j * span.row_bytes, type, d, count) : v_set(0.0f);
      }
      v_transpose(rows);
      for (int64_t j = 0; j < count; ++j) v_store(panel + (d + j) * kAttentionPage + key, rows[j]);
    });
  }
}

/// values[key][head_dim]; f32 pages are read where they are.
inline const float* unpack_values(const PageSpan& span, Element type, int64_t head_dim,
                                  int64_t valid, float* values) {
  if (type == Element::f32) return reinterpret_cast<const float*>(span.data);
  for (int64_t key = 0; key < valid; ++key) {
    const unsigned char* row = span.data + key * span.row_bytes;
    for_vectors(head_dim, [&](int64_t d, int64_t count) {
      v_store_part(values + key * head_dim + d, load_kv(row, type, d, count), count);
    });
  }
  return values;
}
