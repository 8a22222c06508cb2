// Both norms as plain vector loops; included inside an anonymous namespace per ISA level.

void rms_norm(const RmsNormArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t n = args.n;
  for (int64_t row = first; row < last; ++row) {
    const float* x = args.x + row * n;
    const float mean = dot(x, x, n) / static_cast<float>(n);
    const Vec factor = v_set(reciprocal_sqrt(mean + args.eps));
    for_vectors(n, [&](int64_t i, int64_t count) {
      const Vec w = v_set(1.0f) + v_load_part(args.weight + i, count);
      const Vec y = v_load_part(x + i, count) * factor * w;
      v_store_element(args.out, args.out_type, row * n + i, y, count);
    });
  }
}

void gated_rms_norm(const GatedRmsNormArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t n = args.head_dim;
  for (int64_t head = first * args.heads; head < last * args.heads; ++head) {
    const float* x = args.core + head * n;
    const float* z = args.z + head * n;
    const float mean = dot(x, x, n) / static_cast<float>(n);
    const Vec factor = v_set(reciprocal_sqrt(mean + args.eps));
    for_vectors(n, [&](int64_t i, int64_t count) {
      const Vec normed = v_load_part(x + i, count) * factor * v_load_part(args.weight + i, count);
      const Vec y = normed * v_silu(v_load_part(z + i, count));
      v_store_element(args.out, args.out_type, head * n + i, y, count);
    });
  }
}
