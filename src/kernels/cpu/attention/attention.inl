// Paged causal attention with online softmax; included inside an anonymous namespace per ISA level.
//
// Rows of an item: (token, head of the KV group), token-major. Per page: keys are unpacked and
// transposed to a panel [head_dim][64], values to [64][head_dim]; scores = Q panel; softmax update;
// O = factor * O + P V. Both products are tile_gemm, one chain per element. A row whose own token
// lies in the page multiplies exactly the keys it may see.

/// Scratch of one item, carved from the worker's.
struct AttentionScratch {
  float* panel;  // [head_dim][64]
  float* values;  // [64][head_dim]
  float* query;  // [rows][head_dim], scaled
  float* out;  // [rows][head_dim]
  float* scores;  // [rows][64]
  float* maximum;  // [rows], running maximum
  float* sum;  // [rows], running sum
  float* factor;  // [rows], rescaling of this block
};

inline AttentionScratch carve_scratch(const AttentionArgs& args, float* base) {
  const int64_t d = (args.head_dim + 15) / 16 * 16;
  const int64_t rows = attention_block_tokens(args.num_heads, args.num_kv_heads) *
                       (args.num_heads / args.num_kv_heads);
  const int64_t padded_rows = (rows + 15) / 16 * 16;
  AttentionScratch s{};
  s.panel = base;
  s.values = s.panel + kAttentionPage * d;
  s.query = s.values + kAttentionPage * d;
  s.out = s.query + rows * d;
  s.scores = s.out + rows * d;
  s.maximum = s.scores + rows * kAttentionPage;
  s.sum = s.maximum + padded_rows;
  s.factor = s.sum + padded_rows;
  return s;
}

/// What an item covers: tokens of the sequence's new rows, heads of one KV group.
struct AttentionItem {
  int64_t first_token;
  int64_t tokens;
  int64_t kv_head;
  int64_t group;
  int64_t first_key;  // KV index of first_token
};

inline AttentionItem make_item(const AttentionArgs& args, int64_t item) {
  const int64_t block = attention_block_tokens(args.num_heads, args.num_kv_heads);
  AttentionItem it{};
  // The last tokens see the most keys: their items come first, so that threads end together.
  it.first_token = ((args.q_len - 1) / block - item / args.num_kv_heads) * block;
  const int64_t left = args.q_len - it.first_token;
  it.tokens = left < block ? left : block;
  it.kv_head = item % args.num_kv_heads;
  it.group = args.num_heads / args.num_kv_heads;
  it.first_key = args.kv_len - args.q_len + it.first_token;
  return it;
}

inline void load_queries(const AttentionArgs& args, const AttentionItem& it,
                         const AttentionScratch& s) {
  float scale = reciprocal_sqrt(static_cast<float>(args.head_dim));
  if (args.kv_type == Element::f8_e4m3) scale *= args.k_scale;
  const int64_t d = args.head_dim;
  for (int64_t token = 0; token < it.tokens; ++token) {
    const int64_t row = args.first_row + it.first_token + token;
    const float* q = args.q + (row * args.num_heads + it.kv_head * it.group) * d;
    float* target = s.query + token * it.group * d;
    for_vectors(it.group * d, [&](int64_t i, int64_t count) {
      v_store_part(target + i, v_load_part(q + i, count) * v_set(scale), count);
    });
  }
  for (int64_t row = 0; row < it.tokens * it.group; ++row) {
    s.maximum[row] = -__builtin_inff();
    s.sum[row] = 0;
    __builtin_memset(s.out + row * d, 0, static_cast<size_t>(d) * sizeof(float));
  }
}

/// Keys of block `block` that the token may see: up to and including its own.
inline int64_t visible_keys(const AttentionItem& it, int64_t token, int64_t block) {
  const int64_t keys = it.first_key + token + 1 - block * kAttentionPage;
  return keys < kAttentionPage ? keys : kAttentionPage;
}

/// Online softmax of rows [first, rows): scores become weights, factor the rescaling of out.
inline void softmax_block(const AttentionItem& it, const AttentionScratch& s, int64_t block,
                          int64_t first, int64_t rows) {
  for (int64_t row = first; row < rows; ++row) {
    float* scores = s.scores + row * kAttentionPage;
    for (int64_t k = visible_keys(it, row / it.group, block); k < kAttentionPage; ++k) {
      scores[k] = -__builtin_inff();
    }
    Vec top = v_load(scores);
    for (int64_t k = kLanes; k < kAttentionPage; k += kLanes) top = v_max(top, v_load(scores + k));
    const float old = s.maximum[row];
    const float now = v_max_lane(top);
    s.maximum[row] = now > old ? now : old;
    s.factor[row] = old - s.maximum[row];
  }
  for_vectors(rows - first, [&](int64_t i, int64_t count) {
    float* factor = s.factor + first + i;
    v_store_part(factor, v_exp(v_load_part(factor, count)), count);
  });
  for (int64_t row = first; row < rows; ++row) {
    float* scores = s.scores + row * kAttentionPage;
    const Vec maximum = v_set(s.maximum[row]);
    Vec sum = {};
    for (int64_t k = 0; k < kAttentionPage; k += kLanes) {
      const Vec weight = v_exp(v_load(scores + k) - maximum);
      v_store(scores + k, weight);
      sum = sum + weight;
    }
    s.sum[row] = s.sum[row] * s.factor[row] + v_sum(sum);
  }
}

/// out = factor * out + weights * values for rows [first, last), keys [0, depth).
inline void add_values(const AttentionArgs& args, const AttentionScratch& s, const float* values,
                       int64_t first, int64_t last, int64_t depth) {
  const int64_t d = args.head_dim;
  if (first >= last) return;
  tile_gemm({s.scores + first * kAttentionPage, kAttentionPage, 1, values, d, s.out + first * d, d,
             s.factor + first, last - first, d, depth});
}

inline void attend_block(const AttentionArgs& args, const AttentionItem& it,
                         const AttentionScratch& s, int64_t block) {
  const int64_t block_start = block * kAttentionPage;
  const int64_t left = args.kv_len - block_start;
  const int64_t valid = left < kAttentionPage ? left : kAttentionPage;
  const int64_t d = args.head_dim;
  unpack_keys(page_span(args, args.k_pages, block, it.kv_head), args.kv_type, d, valid, s.panel);
  const float* values = unpack_values(page_span(args, args.v_pages, block, it.kv_head),
                                      args.kv_type, d, valid, s.values);
  // Tokens before `active` end in front of this block; those from `full` on see all of it.
  const int64_t before = block_start - it.first_key;
  const int64_t active = before > 0 ? before : 0;
  int64_t full = block_start + kAttentionPage - 1 - it.first_key;
  full = full < active ? active : full > it.tokens ? it.tokens : full;
  const int64_t first = active * it.group;
  const int64_t rows = it.tokens * it.group;
  tile_gemm({s.query + first * d, d, 1, s.panel, kAttentionPage, s.scores + first * kAttentionPage,
             kAttentionPage, nullptr, rows - first, kAttentionPage, d});
  softmax_block(it, s, block, first, rows);
  for (int64_t token = active; token < full; ++token) {
    add_values(args, s, values, token * it.group, (token + 1) * it.group,
               visible_keys(it, token, block));
  }
  add_values(args, s, values, full * it.group, rows, kAttentionPage);
}

void attention(const AttentionArgs& args, int64_t item, float* scratch) noexcept {
  const AttentionItem it = make_item(args, item);
  const AttentionScratch s = carve_scratch(args, scratch);
  load_queries(args, it, s);
  const int64_t last_key = it.first_key + it.tokens - 1;
  for (int64_t block = 0; block <= last_key / kAttentionPage; ++block) {
    attend_block(args, it, s, block);
  }
  const int64_t d = args.head_dim;
  const float v_scale = args.kv_type == Element::f8_e4m3 ? args.v_scale : 1.0f;
  for (int64_t token = 0; token < it.tokens; ++token) {
    const int64_t row = args.first_row + it.first_token + token;
    float* core = args.core + (row * args.num_heads + it.kv_head * it.group) * d;
    for (int64_t g = 0; g < it.group; ++g) {
      const Vec factor = v_set(v_scale / s.sum[token * it.group + g]);
      const float* out = s.out + (token * it.group + g) * d;
      for_vectors(d, [&](int64_t i, int64_t count) {
        v_store_part(core + g * d + i, v_load_part(out + i, count) * factor, count);
      });
    }
  }
}
