// Norm and rotation of queries and keys; included inside an anonymous namespace per ISA level.

/// out = x * rsqrt(mean(x^2) + eps) * (1 + w); x may be out.
inline void norm_head(const float* x, const float* weight, float eps, int64_t n, float* out) {
  const float mean = dot(x, x, n) / static_cast<float>(n);
  const Vec factor = v_set(reciprocal_sqrt(mean + eps));
  for_vectors(n, [&](int64_t i, int64_t count) {
    const Vec w = v_set(1.0f) + v_load_part(weight + i, count);
    v_store_part(out + i, v_load_part(x + i, count) * factor * w, count);
  });
}

/// Turns the pairs (j, j + pairs) in place.
inline void rotate_head(const float* table, int64_t pairs, float* x) {
  for_vectors(pairs, [&](int64_t j, int64_t count) {
    const Vec cosine = v_load_part(table + j, count);
    const Vec sine = v_load_part(table + pairs + j, count);
    const Vec a = v_load_part(x + j, count);
    const Vec b = v_load_part(x + pairs + j, count);
    v_store_part(x + j, v_fma(a, cosine, -(b * sine)), count);
    v_store_part(x + pairs + j, v_fma(b, cosine, a * sine), count);
  });
}

void qk_norm_rope(const QkNormRopeArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t d = args.head_dim;
  const int64_t pairs = args.rotary_dim / 2;
  for (int64_t row = first; row < last; ++row) {
    const float* table = args.table + row * 2 * pairs;
    for (int64_t head = row * args.num_heads; head < (row + 1) * args.num_heads; ++head) {
      const float* source = args.q_gate + head * 2 * d;
      norm_head(source, args.q_norm, args.eps, d, args.q + head * d);
      rotate_head(table, pairs, args.q + head * d);
      __builtin_memcpy(args.gate + head * d, source + d, static_cast<size_t>(d) * sizeof(float));
    }
    for (int64_t head = row * args.num_kv_heads; head < (row + 1) * args.num_kv_heads; ++head) {
      norm_head(args.k + head * d, args.k_norm, args.eps, d, args.k + head * d);
      rotate_head(table, pairs, args.k + head * d);
    }
  }
}
