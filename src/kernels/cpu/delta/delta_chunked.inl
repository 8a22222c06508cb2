// The chunked form of the delta rule (qwen3_5_moe.md 3.6 i); included after delta_recurrent.inl.
//
// Per chunk of c <= 64 tokens, with G the running sum of g, D_ij = exp(G_i - G_j), K and Q normed:
//   N = (I + M)^-1 (beta (V - exp(G) K S)),  M_ij = beta_i (k_i.k_j) D_ij below the diagonal
//   O = exp(G) Q S + P N,                    P_ij = (q_i.k_j) D_ij on and below the diagonal
//   S = exp(G_last) S + K^T (exp(G_last - G) N)
// which is 3.6 i with W S taken into the right-hand side of one triangular solve. The products of
// keys and queries are shared by the value heads of a key head.

/// Scratch of one item, carved from the worker's.
struct ChunkScratch {
  float* q;  // [64][dk], normed and scaled
  float* k;  // [64][dk], normed
  float* panel;  // [dk][64]: k transposed
  float* values;  // [64][dv]: K S, then the right-hand side, then N
  float* out;  // [64][dv]
  float* kk;  // [64][64]: k_i.k_j
  float* qk;  // [64][64]: q_i.k_j
  float* m;  // [64][64]: -M, strictly lower
  float* p;  // [64][64]: P
  float* total;  // [64]: G
  float* grown;  // [64]: exp(G)
  float* rest;  // [64]: exp(G_last - G)
  float* ones;  // [64]
  float* recurrent;  // [2 dk]: normed k and q of one token; or the factor of every state row
};

inline ChunkScratch carve_chunk_scratch(const GatedDeltaArgs& args, float* base) {
  const int64_t dk = (args.key_head_dim + 15) / 16 * 16;
  const int64_t dv = (args.value_head_dim + 15) / 16 * 16;
  const int64_t square = kDeltaChunk * kDeltaChunk;
  ChunkScratch s{};
  s.q = base;
  s.k = s.q + kDeltaChunk * dk;
  s.panel = s.k + kDeltaChunk * dk;
  s.recurrent = s.panel + kDeltaChunk * dk;
  s.values = s.recurrent + kDeltaChunk * dk;
  s.out = s.values + kDeltaChunk * dv;
  s.kk = s.out + kDeltaChunk * dv;
  s.qk = s.kk + square;
  s.m = s.qk + square;
  s.p = s.m + square;
  s.total = s.p + square;
  s.grown = s.total + kDeltaChunk;
  s.rest = s.grown + kDeltaChunk;
  s.ones = s.rest + kDeltaChunk;
  return s;
}

/// Normed q and k of tokens [first, first + count), the transposed panel, and their products.
inline void prepare_keys(const GatedDeltaArgs& args, int64_t key_head, int64_t first, int64_t count,
                         const ChunkScratch& s) {
  const int64_t dk = args.key_head_dim;
  const int64_t value_head = key_head * (args.num_value_heads / args.num_key_heads);
  const float scale = reciprocal_sqrt(static_cast<float>(dk));
  for (int64_t i = 0; i < count; ++i) {
    const DeltaRow row = delta_row(args, first + i, value_head);
    l2_norm(row.q, dk, scale, s.q + i * dk);
    l2_norm(row.k, dk, 1.0f, s.k + i * dk);
  }
  for (int64_t i = 0; i < kDeltaChunk; i += kLanes) {
    for_vectors(dk, [&](int64_t d, int64_t part) {
      Vec rows[kLanes];
      for (int j = 0; j < kLanes; ++j) {
        rows[j] = i + j < count ? v_load_part(s.k + (i + j) * dk + d, part) : v_set(0.0f);
      }
      v_transpose(rows);
      for (int64_t j = 0; j < part; ++j) v_store(s.panel + (d + j) * kDeltaChunk + i, rows[j]);
    });
  }
  const int64_t columns = (count + kLanes - 1) / kLanes * kLanes;
  tile_gemm({s.k, dk, 1, s.panel, kDeltaChunk, s.kk, kDeltaChunk, nullptr, count, columns, dk});
  tile_gemm({s.q, dk, 1, s.panel, kDeltaChunk, s.qk, kDeltaChunk, nullptr, count, columns, dk});
}

/// G, exp(G), exp(G_last - G), -M and P of one value head.
inline void prepare_decay(const GatedDeltaArgs& args, int64_t value_head, int64_t first,
                          int64_t count, const ChunkScratch& s) {
  float total = 0;
  for (int64_t i = 0; i < kDeltaChunk; ++i) {
    if (i < count) total += delta_row(args, first + i, value_head).g;
    s.total[i] = total;
  }
  for (int64_t i = 0; i < kDeltaChunk; i += kLanes) {
    v_store(s.grown + i, v_exp(v_load(s.total + i)));
    v_store(s.rest + i, v_exp(v_set(total) - v_load(s.total + i)));
    v_store(s.ones + i, v_set(1.0f));
  }
  for (int64_t i = 0; i < count; ++i) {
    const Vec minus_beta = v_set(-delta_row(args, first + i, value_head).beta);
    float* m = s.m + i * kDeltaChunk;
    float* p = s.p + i * kDeltaChunk;
    for (int64_t j = 0; j <= i; j += kLanes) {
      // Lanes above the diagonal may hold large values or infinity; nothing reads them.
      const Vec decay = v_exp(v_set(s.total[i]) - v_load(s.total + j));
      v_store(m + j, minus_beta * (v_load(s.kk + i * kDeltaChunk + j) * decay));
      v_store(p + j, v_load(s.qk + i * kDeltaChunk + j) * decay);
    }
  }
}

/// values holds K S: makes it the right-hand side and solves (I + M) N = values in place.
inline void solve_values(const GatedDeltaArgs& args, int64_t value_head, int64_t first,
                         int64_t count, const ChunkScratch& s) {
  const int64_t dv = args.value_head_dim;
  for (int64_t i = 0; i < count; ++i) {
    const DeltaRow row = delta_row(args, first + i, value_head);
    const Vec minus_grown = v_set(-s.grown[i]);
    float* n = s.values + i * dv;
    for_vectors(dv, [&](int64_t c, int64_t part) {
      const Vec rest = v_fma(minus_grown, v_load_part(n + c, part), v_load_part(row.v + c, part));
      v_store_part(n + c, v_set(row.beta) * rest, part);
    });
  }
  // Blocks of rows: first everything above the block at once, then the triangle row by row.
  constexpr int64_t kBlock = 2 * kTileRows;
  for (int64_t i = 0; i < count; i += kBlock) {
    const int64_t rows = count - i < kBlock ? count - i : kBlock;
    tile_gemm({s.m + i * kDeltaChunk, kDeltaChunk, 1, s.values, dv, s.values + i * dv, dv, s.ones,
               rows, dv, i});
    for (int64_t r = 1; r < rows; ++r) {
      tile_gemm({s.m + (i + r) * kDeltaChunk + i, kDeltaChunk, 1, s.values + i * dv, dv,
                 s.values + (i + r) * dv, dv, s.ones, 1, dv, r});
    }
  }
}

/// out holds Q S: adds P N, a triangle of blocks, and writes the rows to core.
inline void write_outputs(const GatedDeltaArgs& args, int64_t value_head, int64_t first,
                          int64_t count, const ChunkScratch& s) {
  const int64_t dv = args.value_head_dim;
  // The diagonal belongs to each row's chain: rows are cut where their sums end.
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = i + 1; j < kDeltaChunk && j < (i / kTileRows + 1) * kTileRows; ++j) {
      s.p[i * kDeltaChunk + j] = 0;
    }
  }
  for (int64_t i = 0; i < count; i += kTileRows) {
    const int64_t rows = count - i < kTileRows ? count - i : kTileRows;
    tile_gemm({s.p + i * kDeltaChunk, kDeltaChunk, 1, s.values, dv, s.out + i * dv, dv, s.grown + i,
               rows, dv, i + rows});
  }
  for (int64_t i = 0; i < count; ++i) {
    __builtin_memcpy(delta_row(args, first + i, value_head).core, s.out + i * dv,
                     static_cast<size_t>(dv) * sizeof(float));
  }
}

/// One chunk of one value head; state is read and written in place.
inline void advance_chunk(const GatedDeltaArgs& args, int64_t value_head, int64_t first,
                          int64_t count, const ChunkScratch& s) {
  const int64_t dk = args.key_head_dim, dv = args.value_head_dim;
  float* state = args.state_out + value_head * dk * dv;
  prepare_decay(args, value_head, first, count, s);
  tile_gemm({s.k, dk, 1, state, dv, s.values, dv, nullptr, count, dv, dk});
  tile_gemm({s.q, dk, 1, state, dv, s.out, dv, nullptr, count, dv, dk});
  solve_values(args, value_head, first, count, s);
  write_outputs(args, value_head, first, count, s);
  for (int64_t i = 0; i < count; ++i) {
    float* n = s.values + i * dv;
    for_vectors(dv, [&](int64_t c, int64_t part) {
      v_store_part(n + c, v_set(s.rest[i]) * v_load_part(n + c, part), part);
    });
  }
  float* decay = s.recurrent;
  for (int64_t i = 0; i < dk; ++i) decay[i] = s.grown[count - 1];
  tile_gemm({s.k, 1, dk, s.values, dv, state, dv, decay, dk, dv, count});
}

void gated_delta_chunked(const GatedDeltaArgs& args, int64_t item, float* scratch) noexcept {
  const int64_t ratio = args.num_value_heads / args.num_key_heads;
  const int64_t head_size = args.key_head_dim * args.value_head_dim;
  const ChunkScratch s = carve_chunk_scratch(args, scratch);
  float* states = args.state_out + item * ratio * head_size;
  const auto bytes = static_cast<size_t>(ratio * head_size) * sizeof(float);
  if (args.state_in == nullptr) {
    __builtin_memset(states, 0, bytes);
  } else if (args.state_in != args.state_out) {
    __builtin_memcpy(states, args.state_in + item * ratio * head_size, bytes);
  }
  for (int64_t t = 0; t < args.q_len;) {
    const int64_t grid = kDeltaChunk - (args.start + t) % kDeltaChunk;
    const int64_t count = args.q_len - t < grid ? args.q_len - t : grid;
    const bool is_short = count <= kDeltaShortChunk;
    if (!is_short) prepare_keys(args, item, t, count, s);
    for (int64_t head = item * ratio; head < (item + 1) * ratio; ++head) {
      if (is_short) {
        recurrent_tokens(args, head, 0, args.value_head_dim, t, t + count,
                         args.state_out + head * head_size, s.recurrent);
      } else {
        advance_chunk(args, head, t, count, s);
      }
      if ((args.start + t + count) % kDeltaChunk == 0) {
        serve_saves(args, head, 0, args.value_head_dim, args.start + t + count);
      }
    }
    t += count;
  }
}
