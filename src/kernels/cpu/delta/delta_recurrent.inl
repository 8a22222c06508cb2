// Gates and the recurrent form of the delta rule; included inside an anonymous namespace per level.
//
// Per token and state column: p = S^T k and r = S^T q of the old state in one pass (one chain over
// the key index, ascending), then with e = exp(g): d = (v - e p) beta, o = e r + (k.q) d, and a
// second pass S <- e S + k d^T. A column's bits do not depend on which block it is worked in.

void delta_gates(const DeltaGatesArgs& args, int64_t first, int64_t last) noexcept {
  for (int64_t row = first; row < last; ++row) {
    float* a = args.a_to_g + row * args.heads;
    float* b = args.b_to_beta + row * args.heads;
    for_vectors(args.heads, [&](int64_t h, int64_t count) {
      const Vec rate = v_exp(v_load_part(args.a_log + h, count));
      const Vec step = v_softplus(v_load_part(a + h, count) + v_load_part(args.dt_bias + h, count));
      v_store_part(a + h, -(rate * step), count);
      v_store_part(b + h, v_sigmoid(v_load_part(b + h, count)), count);
    });
  }
}

/// out = x * rsqrt(sum(x^2) + 1e-6) * scale.
inline void l2_norm(const float* x, int64_t n, float scale, float* out) {
  const Vec factor = v_set(reciprocal_sqrt(dot(x, x, n) + 1e-6f) * scale);
  for_vectors(n, [&](int64_t i, int64_t count) {
    v_store_part(out + i, v_load_part(x + i, count) * factor, count);
  });
}

/// Where a sequence's row lies.
struct DeltaRow {
  const float* q;  // of the key head, as it comes
  const float* k;
  const float* v;  // of the value head
  float g;
  float beta;
  float* core;
};

inline DeltaRow delta_row(const GatedDeltaArgs& args, int64_t t, int64_t value_head) {
  const int64_t row = args.first_row + t;
  const int64_t key_head = value_head / (args.num_value_heads / args.num_key_heads);
  const int64_t keys = args.num_key_heads * args.key_head_dim;
  const int64_t values = args.num_value_heads * args.value_head_dim;
  const float* qkv = args.qkv + row * (2 * keys + values);
  DeltaRow r{};
  r.q = qkv + key_head * args.key_head_dim;
  r.k = r.q + keys;
  r.v = qkv + 2 * keys + value_head * args.value_head_dim;
  r.g = args.g[row * args.num_value_heads + value_head];
  r.beta = args.beta[row * args.num_value_heads + value_head];
  r.core = args.core + row * values + value_head * args.value_head_dim;
  return r;
}

/// One token for all columns of a block: normed k and q, their product, the gates.
struct TokenStep {
  const float* k;
  const float* q;
  float kq;
  float decay;
  float beta;
  int64_t key_dim;
  int64_t stride;  // between state rows
};

/// kVecs vectors of columns; `count` < kLanes only with kVecs 1. source null: zeros.
template <int kVecs>
inline void step_columns(const TokenStep& step, const float* source, float* target, const float* v,
                         float* core, int64_t count) {
  Vec p[kVecs], r[kVecs];
  for (int j = 0; j < kVecs; ++j) p[j] = r[j] = v_set(0.0f);
  if (source != nullptr) {
    const float* s = source;
    for (int64_t i = 0; i < step.key_dim; ++i, s += step.stride) {
      const Vec k = v_set(step.k[i]), q = v_set(step.q[i]);
      for (int j = 0; j < kVecs; ++j) {
        const Vec state = v_load_part(s + j * kLanes, count);
        p[j] = v_fma(k, state, p[j]);
        r[j] = v_fma(q, state, r[j]);
      }
    }
  }
  const Vec decay = v_set(step.decay);
  for (int j = 0; j < kVecs; ++j) {
    const Vec d = (v_load_part(v + j * kLanes, count) - decay * p[j]) * v_set(step.beta);
    v_store_part(core + j * kLanes, v_fma(v_set(step.kq), d, decay * r[j]), count);
    p[j] = d;
  }
  float* t = target;
  for (int64_t i = 0; i < step.key_dim; ++i, t += step.stride) {
    const Vec k = v_set(step.k[i]);
    for (int j = 0; j < kVecs; ++j) {
      Vec state = v_set(0.0f);
      if (source != nullptr) state = v_load_part(source + i * step.stride + j * kLanes, count);
      v_store_part(t + j * kLanes, v_fma(k, p[j], decay * state), count);
    }
  }
}

/// Tokens [first, last) of one value head, columns [column, end). scratch: 2 * key_head_dim.
inline void recurrent_tokens(const GatedDeltaArgs& args, int64_t value_head, int64_t column,
                             int64_t end, int64_t first, int64_t last, const float* source,
                             float* scratch) {
  const int64_t dk = args.key_head_dim, dv = args.value_head_dim;
  const int64_t head_offset = value_head * dk * dv;
  float* target = args.state_out + head_offset;
  float* k = scratch;
  float* q = scratch + dk;
  for (int64_t t = first; t < last; ++t) {
    const DeltaRow row = delta_row(args, t, value_head);
    l2_norm(row.k, dk, 1.0f, k);
    l2_norm(row.q, dk, reciprocal_sqrt(static_cast<float>(dk)), q);
    const TokenStep step{k, q, dot(k, q, dk), v_exp(v_set(row.g))[0], row.beta, dk, dv};
    const auto at = [&](int64_t c) { return source == nullptr ? nullptr : source + c; };
    int64_t c = column;
    for (; c + 4 * kLanes <= end; c += 4 * kLanes) {
      step_columns<4>(step, at(c), target + c, row.v + c, row.core + c, kLanes);
    }
    for (; c < end; c += kLanes) {
      const int64_t count = end - c < kLanes ? end - c : kLanes;
      step_columns<1>(step, at(c), target + c, row.v + c, row.core + c, count);
    }
    source = target;
  }
}

/// Copies columns [column, end) of the head's new state to every save that asks for it at `tokens`.
inline void serve_saves(const GatedDeltaArgs& args, int64_t value_head, int64_t column, int64_t end,
                        int64_t tokens) {
  const int64_t dk = args.key_head_dim, dv = args.value_head_dim;
  const float* state = args.state_out + value_head * dk * dv;
  for (int64_t s = 0; s < args.num_saves; ++s) {
    const StateSaveRequest& save = args.saves[s];
    if (save.sequence != args.sequence || save.num_tokens != tokens) continue;
    float* out = args.state_pool + save.slot * args.state_stride + value_head * dk * dv;
    for (int64_t i = 0; i < dk; ++i) {
      __builtin_memcpy(out + i * dv + column, state + i * dv + column,
                       static_cast<size_t>(end - column) * sizeof(float));
    }
  }
}

void gated_delta_recurrent(const GatedDeltaArgs& args, int64_t item, float* scratch) noexcept {
  const int64_t dv = args.value_head_dim;
  const int64_t blocks = (dv + kDeltaColumnBlock - 1) / kDeltaColumnBlock;
  const int64_t value_head = item / blocks;
  const int64_t column = item % blocks * kDeltaColumnBlock;
  const int64_t end = column + kDeltaColumnBlock < dv ? column + kDeltaColumnBlock : dv;
  const int64_t offset = value_head * args.key_head_dim * dv;
  const float* source = args.state_in == nullptr ? nullptr : args.state_in + offset;
  for (int64_t t = 0; t < args.q_len; ++t) {
    recurrent_tokens(args, value_head, column, end, t, t + 1, source, scratch);
    source = args.state_out + offset;
    if ((args.start + t + 1) % kDeltaChunk == 0) {
      serve_saves(args, value_head, column, end, args.start + t + 1);
    }
  }
}
