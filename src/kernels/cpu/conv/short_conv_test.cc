// Tests for the short convolution: every level against kernels/reference/conv.cc; windows, saves
// and cuts bit for bit.
//
// Bound: kernel roundings of the sum on sum |w x|, passed on by silu (slope at most 1.1), and 10 u
// of the result for silu itself.
#include "kernels/cpu/conv/short_conv.h"

#include "kernels/cpu/common/operation_test.h"
#include "kernels/reference/conv.h"

namespace nibble::cpu {
namespace {

struct Case {
  int64_t channels, kernel, columns, tokens;
};

/// One sequence: history of `columns` rows, then tokens, all in one array, rounded to the type.
struct Stream {
  Stream(Case c_in, Element type_in) : c(c_in), type(type_in) {
    rows = random_floats((c.columns + c.tokens) * c.channels, 51, 3.0);
    bits = to_bf16(rows);
    if (type == Element::bf16) rows = from_bf16(bits);
    weight = random_floats(c.channels * c.kernel, 52);
  }
  size_t element_bytes() const { return type == Element::bf16 ? 2 : 4; }
  size_t window_bytes() const {
    return static_cast<size_t>(c.columns * c.channels) * element_bytes();
  }
  const std::byte* row(int64_t t) const {
    const auto* base = type == Element::bf16 ? reinterpret_cast<const std::byte*>(bits.data())
                                             : reinterpret_cast<const std::byte*>(rows.data());
    return base + static_cast<size_t>((c.columns + t) * c.channels) * element_bytes();
  }
  std::vector<std::byte> window_at(int64_t tokens) const {
    const std::byte* first = row(tokens - c.columns);
    return {first, first + window_bytes()};
  }

  Case c;
  Element type;
  std::vector<float> rows;
  std::vector<uint16_t> bits;
  std::vector<float> weight;
};

ShortConvArgs make_args(const Stream& s, std::vector<float>& out) {
  ShortConvArgs args{};
  args.x = s.row(0);
  args.out = out.data();
  args.type = s.type;
  args.weight = s.weight.data();
  args.channels = s.c.channels;
  args.kernel = s.c.kernel;
  args.columns = s.c.columns;
  return args;
}

void run(const OperationKernels& level, const ShortConvArgs& args) {
  for (int64_t item = short_conv_items(args.channels) - 1; item >= 0; --item) {
    level.conv.short_conv(args, item);
  }
}

void check_case(const OperationKernels& level, Case c, Element type) {
  const Stream s(c, type);
  std::vector<float> out(static_cast<size_t>(c.tokens * c.channels));
  std::vector<std::byte> window = s.window_at(0);
  ShortConvArgs args = make_args(s, out);
  args.window_in = window.data();
  args.window_out = window.data();
  args.q_len = c.tokens;
  run(level, args);
  EXPECT_EQ(window, s.window_at(c.tokens)) << level.level;

  std::vector<double> want(out.size());
  const float* first = s.rows.data() + c.columns * c.channels;
  reference::short_conv(first, s.weight.data(), c.tokens, c.channels, c.kernel, want.data());
  BoundCheck check(std::string("short_conv ") + level.level);
  for (int64_t i = 0; i < c.tokens * c.channels; ++i) {
    double size = 0;
    for (int64_t j = 0; j < c.kernel; ++j) {
      const auto weight = s.weight[static_cast<size_t>(i % c.channels * c.kernel + j)];
      size += std::abs(double{weight} * first[i - (c.kernel - 1 - j) * c.channels]);
    }
    const auto at = static_cast<size_t>(i);
    const double bound = 1.1 * static_cast<double>(c.kernel) * kU * size;
    check.add(i, out[at], want[at], bound + 10 * kU * std::abs(want[at]));
  }
}

TEST(ShortConv, EveryLevelAgainstReference) {
  for (const OperationKernels* level : supported_operations()) {
    for (Element type : {Element::f32, Element::bf16}) {
      check_case(*level, {8192, 4, 3, 3}, type);
      check_case(*level, {1280, 4, 3, 9}, type);
      check_case(*level, {1280, 4, 3, 1}, type);
      check_case(*level, {77, 4, 6, 2}, type);
      check_case(*level, {515, 2, 1, 5}, type);
      check_case(*level, {16, 1, 0, 4}, type);
      check_case(*level, {40, 8, 7, 12}, type);
    }
  }
}

TEST(ShortConv, CutsZeroHistoryAndSavesBitForBit) {
  const Case c{520, 4, 3, 200};
  for (const OperationKernels* level : supported_operations()) {
    for (Element type : {Element::f32, Element::bf16}) {
      const Stream s(c, type);
      std::vector<float> whole(static_cast<size_t>(c.tokens * c.channels)), cut(whole.size());
      std::vector<std::byte> window(s.window_bytes());
      ShortConvArgs args = make_args(s, whole);
      args.window_out = window.data();
      args.q_len = c.tokens;
      // Saves at 64 and 128 tokens into slots 2 and 0; the request of another sequence is not ours.
      std::vector<std::byte> pool(4 * s.window_bytes(), std::byte{0xAA});
      const StateSaveRequest saves[] = {{7, 64, 2}, {6, 64, 1}, {7, 128, 0}};
      args.saves = saves;
      args.num_saves = 3;
      args.sequence = 7;
      args.window_pool = pool.data();
      args.window_stride_bytes = static_cast<int64_t>(s.window_bytes());
      run(*level, args);
      const auto slot = [&](size_t i) {
        const auto begin = pool.begin() + static_cast<int64_t>(i * s.window_bytes());
        return std::vector<std::byte>(begin, begin + static_cast<int64_t>(s.window_bytes()));
      };
      EXPECT_EQ(slot(2), s.window_at(64));
      EXPECT_EQ(slot(0), s.window_at(128));
      EXPECT_EQ(slot(1), std::vector<std::byte>(s.window_bytes(), std::byte{0xAA}));

      // The same from a window of zeros, in steps of 64, 1, 2, 133 tokens.
      std::vector<std::byte> state(s.window_bytes(), std::byte{0});
      ShortConvArgs part = make_args(s, cut);
      part.window_in = state.data();
      part.window_out = state.data();
      for (int64_t length : {64, 1, 2, 133}) {
        part.q_len = length;
        run(*level, part);
        part.first_row += length;
      }
      expect_same_bits(whole, cut, level->level);
      EXPECT_EQ(window, state);
    }
  }
}

}  // namespace
}  // namespace nibble::cpu
