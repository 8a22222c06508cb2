// Tests for KV pages and attention: every level against kernels/reference/attention.cc, and the
// promise that a row's bits depend on nothing but its own sequence.
//
// Bound of an output element, from the data: scores carry ds = (D + 8) u sum|q k| / sqrt(D), a
// weight's relative error is 2 ds (numerator and sum) plus 4 u for exp, (blocks + 8) u for the
// rescalings and keys u for the two sums. All of it multiplies sum w |v|.
#include "kernels/cpu/attention/attention.h"

#include "formats/e4m3.h"
#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/attention.h"

namespace nibble::cpu {
namespace {

struct Geometry {
  int64_t heads, kv_heads, head_dim;
};

size_t element_bytes(Element type) {
  return type == Element::f32 ? 4 : type == Element::bf16 ? 2 : 1;
}

/// One sequence with its pages, out of order in a pool whose other bytes are NaN in every type.
struct Sequence {
  Sequence(Geometry g_in, Element type_in, int64_t tokens_in, uint64_t seed)
      : g(g_in), type(type_in), tokens(tokens_in) {
    const int64_t num_pages = (tokens + 63) / 64;
    const auto bytes =
        static_cast<size_t>((num_pages + 2) * g.kv_heads * 64 * g.head_dim) * element_bytes(type);
    k_pages.assign(bytes, std::byte{0xFF});
    v_pages = k_pages;
    for (int64_t i = 0; i < num_pages; ++i) {
      pages.push_back(static_cast<int32_t>((i * 7 + 3) % (num_pages + 2)));
    }
    // 7 and num_pages + 2 may share a factor: fall back to reversed order.
    for (size_t i = 0; (num_pages + 2) % 7 == 0 && i < pages.size(); ++i) {
      pages[i] = static_cast<int32_t>(num_pages + 1 - static_cast<int64_t>(i));
    }
    q = random_floats(tokens * g.heads * g.head_dim, seed, 2.0);
    k = random_floats(tokens * g.kv_heads * g.head_dim, seed + 1, 2.0);
    v = random_floats(tokens * g.kv_heads * g.head_dim, seed + 2, 2.0);
    core.assign(q.size(), 0.0f);
  }

  /// Stores and attends tokens [first, first + count).
  void step(const OperationKernels& level, int64_t first, int64_t count) {
    KvStoreArgs store{k.data(), v.data(), k_pages.data(), v_pages.data(),
                      type,     kKScale,  kVScale,        pages.data(),
                      first,    first,    g.kv_heads,     g.head_dim};
    level.attention.kv_store(store, count / 2, count);
    level.attention.kv_store(store, 0, count / 2);
    AttentionArgs args{q.data(),      core.data(), k_pages.data(), v_pages.data(), type,
                       kKScale,       kVScale,     pages.data(),   first,          count,
                       first + count, g.heads,     g.kv_heads,     g.head_dim};
    AlignedFloats scratch(attention_scratch_floats(g.heads, g.kv_heads, g.head_dim));
    for (int64_t item = attention_items(count, g.heads, g.kv_heads) - 1; item >= 0; --item) {
      level.attention.attention(args, item, scratch.data());
    }
  }

  /// What the pages hold for x, as [token][kv_head][D].
  std::vector<double> stored(const std::vector<float>& x, float scale) const {
    std::vector<double> values;
    for (float value : x) {
      double held = value;
      if (type == Element::bf16) held = formats::round_to_bf16(value);
      if (type == Element::f8_e4m3) {
        held =
            double{formats::e4m3_to_f32(formats::e4m3_from_f32_saturating(value / scale))} * scale;
      }
      values.push_back(held);
    }
    return values;
  }

  static constexpr float kKScale = 0.013f;
  static constexpr float kVScale = 0.0037f;
  Geometry g;
  Element type;
  int64_t tokens;
  std::vector<std::byte> k_pages, v_pages;
  std::vector<int32_t> pages;
  std::vector<float> q, k, v, core;
};

/// keys of one KV head as [token][D].
std::vector<double> head_rows(const std::vector<double>& values, Geometry g, int64_t kv_head,
                              int64_t count) {
  std::vector<double> rows;
  for (int64_t t = 0; t < count; ++t) {
    const auto begin = values.begin() + (t * g.kv_heads + kv_head) * g.head_dim;
    rows.insert(rows.end(), begin, begin + g.head_dim);
  }
  return rows;
}

void check_token(const Sequence& s, const std::vector<double>& keys,
                 const std::vector<double>& values, int64_t token, BoundCheck& check) {
  const Geometry g = s.g;
  const int64_t d = g.head_dim, count = token + 1;
  std::vector<double> want(static_cast<size_t>(d)), size(static_cast<size_t>(d));
  std::vector<double> magnitudes;
  for (int64_t head = 0; head < g.heads; ++head) {
    const int64_t kv_head = head / (g.heads / g.kv_heads);
    const auto k = head_rows(keys, g, kv_head, count), v = head_rows(values, g, kv_head, count);
    const float* q = s.q.data() + (token * g.heads + head) * d;
    reference::attention(q, k.data(), v.data(), count, d, want.data());
    magnitudes.clear();
    for (double value : v) magnitudes.push_back(std::abs(value));
    reference::attention(q, k.data(), magnitudes.data(), count, d, size.data());
    double score_size = 0;
    for (int64_t n = 0; n < count; ++n) {
      double sum = 0;
      for (int64_t i = 0; i < d; ++i) {
        sum += std::abs(q[i] * k[static_cast<size_t>(n * d + i)]);
      }
      score_size = std::max(score_size, sum / std::sqrt(static_cast<double>(d)));
    }
    const double score_error = static_cast<double>(d + 8) * kU * score_size;
    const double relative = 2 * score_error + static_cast<double>(count / 64 + 16 + 2 * count) * kU;
    for (int64_t i = 0; i < d; ++i) {
      const auto at = static_cast<size_t>(i);
      check.add((token * g.heads + head) * d + i,
                s.core[static_cast<size_t>((token * g.heads + head) * d + i)], want[at],
                relative * size[at]);
    }
  }
}

TEST(Attention, EveryLevelAgainstReference) {
  const Geometry geometries[] = {{16, 2, 256}, {3, 1, 256}, {2, 1, 64},
                                 {4, 4, 48},   {16, 1, 32}, {1, 1, 24}};
  for (const OperationKernels* level : supported_operations()) {
    for (Geometry g : geometries) {
      for (Element type : {Element::f32, Element::bf16, Element::f8_e4m3}) {
        const int64_t tokens = 150;
        Sequence s(g, type, tokens, 61);
        s.step(*level, 0, 70);
        s.step(*level, 70, 1);
        s.step(*level, 71, tokens - 71);
        const auto keys = s.stored(s.k, Sequence::kKScale);
        const auto values = s.stored(s.v, Sequence::kVScale);
        BoundCheck check(std::string("attention ") + level->level + " D " +
                         std::to_string(g.head_dim) + " heads " + std::to_string(g.heads) +
                         " type " + std::to_string(static_cast<int>(type)));
        for (int64_t token : {0, 1, 15, 62, 63, 64, 69, 70, 71, 127, 128, 149}) {
          check_token(s, keys, values, token, check);
        }
      }
    }
  }
}

TEST(Attention, BitsDoNotDependOnTheCuts) {
  for (const OperationKernels* level : supported_operations()) {
    for (Geometry g : {Geometry{16, 2, 256}, Geometry{3, 1, 80}, Geometry{2, 2, 32}}) {
      for (Element type : {Element::f32, Element::bf16, Element::f8_e4m3}) {
        const int64_t tokens = 210;
        Sequence whole(g, type, tokens, 71), chunks(g, type, tokens, 71),
            single(g, type, tokens, 71);
        whole.step(*level, 0, tokens);
        chunks.step(*level, 0, 64);
        chunks.step(*level, 64, 64);
        chunks.step(*level, 128, tokens - 128);
        for (int64_t t = 0; t < tokens; ++t) single.step(*level, t, 1);
        expect_same_bits(whole.core, chunks.core, std::string("chunks ") + level->level);
        expect_same_bits(whole.core, single.core, std::string("decode ") + level->level);
      }
    }
  }
}

TEST(Attention, LargeScoresStayFinite) {
  for (const OperationKernels* level : supported_operations()) {
    Sequence s({4, 1, 64}, Element::f32, 100, 81);
    for (float& value : s.q) value *= 1e4f;
    for (float& value : s.k) value *= 1e4f;
    s.step(*level, 0, 100);
    for (float value : s.core) ASSERT_TRUE(std::isfinite(value)) << level->level;
  }
}

TEST(KvStore, CodesEqualTheCodec) {
  // Every exponent, both signs, ties and the saturation limits, through 64 tokens of one head.
  std::vector<float> x = {0.0f,
                          -0.0f,
                          448.0f,
                          463.9f,
                          464.0f,
                          465.0f,
                          1e30f,
                          -1e30f,
                          0x1p-10f,
                          0x1.8p-9f,
                          std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(),
                          std::nanf(""),
                          1e-42f};
  for (uint64_t i = 0; x.size() < 64 * 48; ++i) {
    const auto bits = static_cast<uint32_t>(random_bits(91, i));
    const uint32_t exponent = 127 - 14 + bits % 26;
    // Few mantissa bits: exact ties occur.
    x.push_back(__builtin_bit_cast(
        float, (bits & 0x80000000u) | exponent << 23 | (bits >> 4 & 0x7Cu) << 16));
  }
  const std::vector<int32_t> pages = {1};
  for (const OperationKernels* level : supported_operations()) {
    for (float scale : {1.0f, 0.37f}) {
      std::vector<uint8_t> k(2 * x.size()), v(2 * x.size());
      level->attention.kv_store({x.data(), x.data(), k.data(), v.data(), Element::f8_e4m3, scale,
                                 1.0f, pages.data(), 0, 0, 1, 48},
                                0, 64);
      for (size_t i = 0; i < x.size(); ++i) {
        ASSERT_EQ(k[x.size() + i] & 0x7F, formats::e4m3_from_f32_saturating(x[i] / scale) & 0x7F)
            << level->level << " " << x[i];
        if (x[i] == x[i]) {
          ASSERT_EQ(v[x.size() + i], formats::e4m3_from_f32_saturating(x[i]))
              << level->level << " " << x[i];
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
