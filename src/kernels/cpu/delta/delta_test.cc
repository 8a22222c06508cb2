// Tests for the gated delta rule: every level and both forms against kernels/reference/delta.cc,
// and bit for bit independence of cuts and items.
//
// Bound, from the data: one step maps a state error without growing it (decay <= 1, |I - beta k
// k^T|
// <= 1) and adds c u (|S_col| + |v| + |d|) per column, c counting the roundings behind one column's
// update: 2 dk + 24 for sums, norms, exp and products. The chunked form sums over 64 tokens and
// takes differences of running sums of g: its c has 128 + 64 max|G| on top. An output adds
// (c u |S_col|) and carries the state's error, both times |q| = 1 / sqrt(dk).
#include "kernels/cpu/delta/delta.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/delta.h"
#include "kernels/reference/elementwise.h"

#include <algorithm>

namespace nibble::cpu {
namespace {

struct Geometry {
  int64_t key_heads, value_heads, key_dim, value_dim;
  int64_t channels() const { return 2 * key_heads * key_dim + value_heads * value_dim; }
  int64_t head_size() const { return key_dim * value_dim; }
  int64_t state_size() const { return value_heads * head_size(); }
};

enum class Form { recurrent, chunked };

struct Sequence {
  Sequence(Geometry g_in, int64_t tokens_in, uint64_t seed, double decay = 0.3)
      : g(g_in), tokens(tokens_in) {
    qkv = random_floats(tokens * g.channels(), seed, 2.0);
    decays = random_floats(tokens * g.value_heads, seed + 1);
    beta = random_floats(tokens * g.value_heads, seed + 2);
    for (float& value : decays) value = -static_cast<float>(decay) * (1 + value);
    for (float& value : beta) value = 0.5f * (1 + value);
    start_state = random_floats(g.state_size(), seed + 3);
    state.assign(start_state.size(), std::numeric_limits<float>::quiet_NaN());
    core.assign(static_cast<size_t>(tokens * g.value_heads * g.value_dim), 0.0f);
  }

  GatedDeltaArgs args(int64_t first, int64_t count) {
    GatedDeltaArgs a{};
    a.qkv = qkv.data();
    a.g = decays.data();
    a.beta = beta.data();
    a.core = core.data();
    a.first_row = first;
    a.q_len = count;
    a.start = first;
    a.num_key_heads = g.key_heads;
    a.num_value_heads = g.value_heads;
    a.key_head_dim = g.key_dim;
    a.value_head_dim = g.value_dim;
    a.state_in = first == 0 ? (from_zero ? nullptr : start_state.data()) : state.data();
    a.state_out = state.data();
    return a;
  }

  void run(const OperationKernels& level, Form form, const GatedDeltaArgs& a) {
    AlignedFloats scratch(delta_scratch_floats(g.key_dim, g.value_dim));
    if (form == Form::recurrent) {
      for (int64_t i = delta_recurrent_items(g.value_heads, g.value_dim) - 1; i >= 0; --i) {
        level.delta.gated_delta_recurrent(a, i, scratch.data());
      }
    } else {
      for (int64_t i = delta_chunked_items(g.key_heads) - 1; i >= 0; --i) {
        level.delta.gated_delta_chunked(a, i, scratch.data());
      }
    }
  }
  void step(const OperationKernels& level, Form form, int64_t first, int64_t count) {
    run(level, form, args(first, count));
  }

  Geometry g;
  int64_t tokens;
  bool from_zero = false;
  std::vector<float> qkv, decays, beta, start_state, state, core;
};

double column_norm(const std::vector<double>& state, Geometry g, int64_t column) {
  double sum = 0;
  for (int64_t i = 0; i < g.key_dim; ++i) {
    const double value = state[static_cast<size_t>(i * g.value_dim + column)];
    sum += value * value;
  }
  return std::sqrt(sum);
}

/// Largest sum of |g| over a chunk of the head.
double largest_total(const Sequence& s, int64_t head) {
  double largest = 0, total = 0;
  for (int64_t t = 0; t < s.tokens; ++t) {
    if (t % kDeltaChunk == 0) total = 0;
    total -= s.decays[static_cast<size_t>(t * s.g.value_heads + head)];
    largest = std::max(largest, total);
  }
  return largest;
}

/// Compares one head's outputs and final state with the reference.
void check_head(const Sequence& s, int64_t head, Form form, const std::string& what) {
  const Geometry g = s.g;
  const int64_t key_head = head / (g.value_heads / g.key_heads);
  const auto head_begin = s.start_state.begin() + head * g.head_size();
  std::vector<double> state(head_begin, head_begin + g.head_size());
  if (s.from_zero) std::fill(state.begin(), state.end(), 0.0);
  double c = 2 * static_cast<double>(g.key_dim) + 24;
  if (form == Form::chunked) c += 128 + 64 * largest_total(s, head);
  const double q_size = 1 / std::sqrt(static_cast<double>(g.key_dim));
  std::vector<double> out(static_cast<size_t>(g.value_dim)), error(out.size(), 0.0);
  BoundCheck outputs(what + " output"), states(what + " state");
  for (int64_t t = 0; t < s.tokens; ++t) {
    const float* row = s.qkv.data() + t * g.channels();
    const float* q = row + key_head * g.key_dim;
    const float* k = row + (g.key_heads + key_head) * g.key_dim;
    const float* v = row + 2 * g.key_heads * g.key_dim + head * g.value_dim;
    const auto at = static_cast<size_t>(t * g.value_heads + head);
    for (int64_t j = 0; j < g.value_dim; ++j) {
      const double size = 2 * column_norm(state, g, j) + 2 * std::abs(v[j]);
      error[static_cast<size_t>(j)] += c * kU * size;
    }
    reference::gated_delta_step({q, k, v, s.decays[at], s.beta[at]}, g.key_dim, g.value_dim,
                                state.data(), out.data());
    for (int64_t j = 0; j < g.value_dim; ++j) {
      const auto column = static_cast<size_t>(j);
      const double bound = q_size * (error[column] + c * kU * column_norm(state, g, j));
      outputs.add(t * g.value_dim + j, s.core[at * static_cast<size_t>(g.value_dim) + column],
                  out[column], bound);
    }
  }
  for (int64_t i = 0; i < g.head_size(); ++i) {
    states.add(i, s.state[static_cast<size_t>(head * g.head_size() + i)],
               state[static_cast<size_t>(i)], error[static_cast<size_t>(i % g.value_dim)]);
  }
}

constexpr Geometry kGeometries[] = {
    {2, 4, 128, 128}, {2, 6, 128, 128}, {1, 4, 64, 32}, {1, 1, 80, 24}, {2, 2, 16, 100}};

std::string label(const OperationKernels& level, Geometry g, Form form) {
  return std::string(form == Form::chunked ? "chunked " : "recurrent ") + level.level + " dk " +
         std::to_string(g.key_dim) + " dv " + std::to_string(g.value_dim);
}

TEST(GatedDelta, EveryLevelAndFormAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (Geometry g : kGeometries) {
      for (Form form : {Form::recurrent, Form::chunked}) {
        for (int64_t tokens : {1, 5, 64, 150}) {
          for (bool from_zero : {false, true}) {
            Sequence s(g, tokens, 101);
            s.from_zero = from_zero;
            s.step(*level, form, 0, tokens);
            for (int64_t head : {int64_t{0}, g.value_heads - 1}) {
              check_head(s, head, form, label(*level, g, form));
            }
          }
        }
      }
    }
  }
}

TEST(GatedDelta, StrongAndVanishingDecay) {
  for (const OperationKernels* level : supported_operations()) {
    for (double decay : {0.0, 1e-6, 20.0, 200.0}) {
      for (Form form : {Form::recurrent, Form::chunked}) {
        Sequence s({1, 2, 32, 48}, 130, 111, decay);
        s.step(*level, form, 0, 130);
        check_head(s, 1, form, label(*level, s.g, form) + " decay " + std::to_string(decay));
      }
    }
  }
}

TEST(GatedDelta, BitsDoNotDependOnTheCuts) {
  const int64_t tokens = 131;
  for (const OperationKernels* level : supported_operations()) {
    for (Geometry g : kGeometries) {
      Sequence whole(g, tokens, 121), cut(g, tokens, 121);
      whole.step(*level, Form::chunked, 0, tokens);
      cut.step(*level, Form::chunked, 0, 64);
      cut.step(*level, Form::chunked, 64, 64);
      cut.step(*level, Form::chunked, 128, tokens - 128);
      expect_same_bits(whole.core, cut.core, label(*level, g, Form::chunked));
      expect_same_bits(whole.state, cut.state, label(*level, g, Form::chunked));

      Sequence rows(g, tokens, 121), single(g, tokens, 121);
      rows.step(*level, Form::recurrent, 0, tokens);
      for (int64_t t = 0; t < tokens; ++t) single.step(*level, Form::recurrent, t, 1);
      expect_same_bits(rows.core, single.core, label(*level, g, Form::recurrent));
      expect_same_bits(rows.state, single.state, label(*level, g, Form::recurrent));
    }
  }
}

TEST(GatedDelta, ContinuesOffTheGrid) {
  // Decoding stopped at 70 tokens; a prefill goes on from there up to the grid and beyond.
  const Geometry g{1, 2, 64, 64};
  for (const OperationKernels* level : supported_operations()) {
    Sequence s(g, 150, 131);
    s.step(*level, Form::recurrent, 0, 70);
    s.step(*level, Form::chunked, 70, 80);
    check_head(s, 1, Form::chunked, label(*level, g, Form::chunked));
  }
}

TEST(GatedDelta, SavesHoldTheStateOfTheirToken) {
  const Geometry g{1, 3, 32, 80};
  for (const OperationKernels* level : supported_operations()) {
    for (Form form : {Form::recurrent, Form::chunked}) {
      Sequence s(g, 200, 141), prefix(g, 200, 141);
      std::vector<float> pool(static_cast<size_t>(4 * g.state_size()), -1.0f);
      const StateSaveRequest saves[] = {{2, 64, 3}, {1, 64, 1}, {2, 192, 0}};
      GatedDeltaArgs args = s.args(0, 200);
      args.saves = saves;
      args.num_saves = 3;
      args.sequence = 2;
      args.state_pool = pool.data();
      args.state_stride = g.state_size();
      s.run(*level, form, args);
      const auto slot = [&](int64_t i) {
        return std::vector<float>(pool.begin() + i * g.state_size(),
                                  pool.begin() + (i + 1) * g.state_size());
      };
      prefix.step(*level, form, 0, 64);
      expect_same_bits(slot(3), prefix.state, label(*level, g, form));
      prefix.step(*level, form, 64, 128);
      expect_same_bits(slot(0), prefix.state, label(*level, g, form));
      expect_same_bits(slot(1), std::vector<float>(prefix.state.size(), -1.0f), "slot 1");
    }
  }
}

TEST(GatedDelta, ReadAndWriteSlotMayDiffer) {
  const Geometry g{1, 2, 32, 32};
  for (const OperationKernels* level : supported_operations()) {
    for (Form form : {Form::recurrent, Form::chunked}) {
      Sequence apart(g, 70, 151), same(g, 70, 151);
      apart.step(*level, form, 0, 70);
      same.state = same.start_state;
      GatedDeltaArgs args = same.args(0, 70);
      args.state_in = same.state.data();
      same.run(*level, form, args);
      expect_same_bits(apart.core, same.core, label(*level, g, form));
      expect_same_bits(apart.state, same.state, label(*level, g, form));
      expect_same_bits(apart.start_state, same.start_state, "read slot is not written");
    }
  }
}

/// exp within 2 ulp and softplus within 4: g = -exp(a_log) softplus(a + dt_bias) with one of the
/// two made exact.
TEST(DeltaGates, ExpAndSoftplusOverTheirRange) {
  std::vector<float> arguments;
  for (int i = -2000; i <= 1800; ++i) arguments.push_back(static_cast<float>(i) * 0.0517f);
  const auto n = static_cast<int64_t>(arguments.size());
  const std::vector<float> zeros(arguments.size(), 0.0f);
  for (const OperationKernels* level : supported_operations()) {
    // softplus(32) is 32 in f32 and in double to 1e-14 relative.
    std::vector<float> a(arguments.size(), 32.0f), b = arguments;
    level->delta.delta_gates({a.data(), b.data(), arguments.data(), zeros.data(), n}, 0, 1);
    BoundCheck exp_check(std::string("exp ") + level->level);
    BoundCheck beta_check(std::string("beta ") + level->level);
    std::vector<float> s = arguments, unused(arguments.size());
    level->delta.delta_gates({s.data(), unused.data(), zeros.data(), zeros.data(), n}, 0, 1);
    BoundCheck softplus_check(std::string("softplus ") + level->level);
    for (size_t i = 0; i < arguments.size(); ++i) {
      const auto at = static_cast<int64_t>(i);
      const double exact = -32 * std::exp(double{arguments[i]});
      if (exact > -3e38) exp_check.add(at, a[i], exact, 4 * kU * -exact + 32 * 1.5e-45);
      const double sigmoid = reference::sigmoid(arguments[i]);
      beta_check.add(at, b[i], sigmoid, 8 * kU * sigmoid + 1.5e-45);
      const double decay = reference::delta_decay(arguments[i], 0.0f, 0.0f);
      // Halving a denormal on the way loses its last bit: two steps of the denormals.
      softplus_check.add(at, s[i], decay, 8 * kU * -decay + 3e-45);
    }
  }
}

TEST(DeltaGates, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (int64_t heads : {1, 6, 32, 33}) {
      const int64_t rows = 3;
      const auto a_in = random_floats(rows * heads, 161, 10.0);
      const auto b_in = random_floats(rows * heads, 162, 10.0);
      const auto a_log = random_floats(heads, 163, 3.0), dt_bias = random_floats(heads, 164, 4.0);
      auto a = a_in, b = b_in;
      level->delta.delta_gates({a.data(), b.data(), a_log.data(), dt_bias.data(), heads}, 0, 1);
      level->delta.delta_gates({a.data(), b.data(), a_log.data(), dt_bias.data(), heads}, 1, rows);
      BoundCheck check(std::string("delta_gates ") + level->level);
      for (size_t i = 0; i < a.size(); ++i) {
        const size_t h = i % static_cast<size_t>(heads);
        const double want = reference::delta_decay(a_in[i], a_log[h], dt_bias[h]);
        // The sum's rounding, u |a + dt|, moves softplus by as much relative to itself at most.
        const double relative = 16 + std::abs(double{a_in[i]} + dt_bias[h]);
        check.add(static_cast<int64_t>(i), a[i], want, relative * kU * std::abs(want));
        const double beta = reference::sigmoid(b_in[i]);
        check.add(static_cast<int64_t>(i), b[i], beta, 8 * kU * beta);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
