// Elementwise operations as plain vector loops; included inside an anonymous namespace per ISA
// level.

void sigmoid_gate(const SigmoidGateArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t begin = first * args.n;
  for_vectors(last * args.n - begin, [&](int64_t i, int64_t count) {
    const Vec y = v_load_part(args.x + begin + i, count) *
                  v_sigmoid(v_load_part(args.gate + begin + i, count));
    v_store_element(args.out, args.out_type, begin + i, y, count);
  });
}

void add(const AddArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t begin = first * args.n;
  for_vectors(last * args.n - begin, [&](int64_t i, int64_t count) {
    const Vec y = v_load_part(args.a + begin + i, count) + v_load_part(args.b + begin + i, count);
    v_store_part(args.out + begin + i, y, count);
  });
}

void moe_add_shared(const AddSharedArgs& args, int64_t first, int64_t last) noexcept {
  for (int64_t row = first; row < last; ++row) {
    const int64_t begin = row * args.n;
    const Vec gate = v_sigmoid(v_set(args.gate_logit[row]));
    args.gate_logit[row] = gate[0];
    for_vectors(args.n, [&](int64_t i, int64_t count) {
      Vec y = v_fma(gate, v_load_part(args.shared + begin + i, count),
                    v_load_part(args.routed + begin + i, count));
      if (args.base != nullptr) y = v_load_part(args.base + begin + i, count) + y;
      v_store_part(args.out + begin + i, y, count);
    });
  }
}

void gather_rows(const GatherRowsArgs& args, int64_t first, int64_t last) noexcept {
  for (int64_t row = first; row < last; ++row) {
    const float* x = args.x + args.rows[row] * args.n;
    for_vectors(args.n, [&](int64_t i, int64_t count) {
      v_store_element(args.out, args.out_type, row * args.n + i, v_load_part(x + i, count), count);
    });
  }
}
