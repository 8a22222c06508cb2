// Tests for the comparison of one position: the vectors of spec eval.md 3.4 and small rows by hand.
#include "eval/kld/position_record.h"

#include "base/rng.h"
#include "eval/kld/base_row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

namespace nibble::eval {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Rows of ln p, as decoded from a file: log_sum 0.
LogProbRow row_of(const std::vector<float>& values) {
  return {values, 0};
}

std::vector<float> random_logits(Rng& rng, size_t count) {
  std::vector<float> out(count);
  for (float& x : out) x = 8 * static_cast<float>(rng.unit() - 0.5);
  return out;
}

TEST(ComparePosition, EqualRowsGiveExactlyZero) {
  const std::vector<float> logits = {0.3f, -2.0f, 7.5f, 1.0f};
  const PositionRecord record = compare_position(normalized(logits), normalized(logits), 2);
  EXPECT_EQ(record.kld, 0.0);
  EXPECT_EQ(record.nll, record.base_nll);
  EXPECT_EQ(record.rank, 1);
  EXPECT_EQ(record.top5_overlap, 4);  // of a vocabulary of four
}

TEST(ComparePosition, HandRow) {
  const std::vector<float> p = {std::log(0.5f), std::log(0.25f), std::log(0.25f)};
  const std::vector<float> q = {std::log(0.25f), std::log(0.5f), std::log(0.25f)};
  const PositionRecord record = compare_position(normalized(p), normalized(q), 0);
  EXPECT_NEAR(record.kld, 0.25 * std::log(2.0), 1e-7);
  EXPECT_NEAR(record.base_probability(), 0.5, 1e-7);
  EXPECT_NEAR(record.probability(), 0.25, 1e-7);
  EXPECT_NEAR(record.entropy, 1.5 * std::log(2.0), 1e-7);
  EXPECT_EQ(record.base_top, 0);
  EXPECT_EQ(record.top, 1);
  EXPECT_EQ(record.rank, 2);  // 0 and 2 tie under q: the lowest id is better
}

TEST(ComparePosition, ZeroUnderTheModelIsInfiniteAndZeroUnderTheBaseIsNothing) {
  const std::vector<float> p = {std::log(0.5f), std::log(0.5f), -kInfinity};
  const std::vector<float> q = {0, -kInfinity, -kInfinity};
  EXPECT_EQ(compare_position(row_of(p), row_of(q), 0).kld, kInfinity);
  EXPECT_NEAR(compare_position(row_of(q), row_of(p), 0).kld, std::log(2.0), 1e-7);
  // So far down that exp() is 0.
  const std::vector<float> low = {0, -800, -900};
  EXPECT_EQ(compare_position(row_of(low), row_of(q), 0).kld, 0);
}

TEST(ComparePosition, RandomRowsAgainstAPlainLoop) {
  Rng rng(7);
  for (int round = 0; round < 20; ++round) {
    const std::vector<float> a = random_logits(rng, 50), b = random_logits(rng, 50);
    double sum_a = 0, sum_b = 0;
    for (size_t v = 0; v < 50; ++v) {
      sum_a += std::exp(static_cast<double>(a[v]));
      sum_b += std::exp(static_cast<double>(b[v]));
    }
    double kld = 0;
    int32_t better = 0;
    const auto top = static_cast<size_t>(std::max_element(a.begin(), a.end()) - a.begin());
    for (size_t v = 0; v < 50; ++v) {
      const double p = std::exp(static_cast<double>(a[v])) / sum_a;
      const double q = std::exp(static_cast<double>(b[v])) / sum_b;
      kld += p * std::log(p / q);
      better += b[v] > b[top];
    }
    const PositionRecord record = compare_position(normalized(a), normalized(b), 3);
    EXPECT_NEAR(record.kld, kld, 1e-12 + 1e-12 * kld);
    EXPECT_EQ(record.rank, better + 1);
    EXPECT_EQ(record.base_top, static_cast<int32_t>(top));
  }
}

TEST(ComparePosition, LeastLnPLeavesOutTerms) {
  const std::vector<float> p = {0, -20};
  const std::vector<float> q = {-1, -30};
  EXPECT_NEAR(compare_position(row_of(p), row_of(q), 0).kld, 1 + 10 * std::exp(-20.0), 1e-14);
  EXPECT_NEAR(compare_position(row_of(p), row_of(q), 0, -16).kld, 1, 1e-14);
}

TEST(BestIds, TiesTakeTheLowestId) {
  const std::vector<float> values = {1, 3, 3, 0, 3, 2};
  EXPECT_EQ(best_ids(values, 4), (std::vector<int32_t>{1, 2, 4, 5}));
  EXPECT_EQ(best_ids(values, 10).size(), 6u);
}

std::vector<std::byte> encoded(const BaseRowLayout& layout, const std::vector<float>& logits,
                               int32_t token) {
  std::vector<std::byte> row(layout.row_bytes());
  encode_base_row(layout, logits, token, row);
  return row;
}

TEST(BaseRow, CodesByHand) {
  const BaseRowLayout layout{BaseEncoding::codes16, 3, 0, false};
  EXPECT_EQ(layout.row_bytes(), 8u + 2 * 4);  // padded to an even number of entries
  // Range 24: the last entry is cut off and shares the lowest code.
  const std::vector<float> logits = {0, -12, -100};
  const std::vector<std::byte> row = encoded(layout, logits, 0);
  uint16_t codes[4];
  std::memcpy(codes, row.data() + 8, sizeof codes);
  EXPECT_EQ(codes[0], 65535);
  EXPECT_EQ(codes[1], 32768);  // 32767.5 to even
  EXPECT_EQ(codes[2], 0);
  EXPECT_EQ(codes[3], 0);
  std::vector<float> values(3);
  ASSERT_TRUE(decode_values(layout, row, values).ok());
  const double log_sum = std::log(1 + std::exp(-12.0));
  EXPECT_NEAR(values[0], -log_sum, 4e-6);
  EXPECT_NEAR(values[1], -12 - log_sum, 24.0 / 65535);
  EXPECT_NEAR(values[2], -24 - log_sum, 4e-6);
}

TEST(BaseRow, TheTailKeepsWhatTheCodesLose) {
  const BaseRowLayout layout{BaseEncoding::codes16, 5, 0, true};
  EXPECT_EQ(layout.row_bytes(), 8u + 2 * 6 + 8);
  const std::vector<std::byte> row = encoded(layout, {0, -12, -25, -26, -100}, 4);
  const CodesTail tail = decode_tail(layout, row).value();
  const double log_sum = std::log(1 + std::exp(-12.0));
  EXPECT_NEAR(tail.token_ln_p, -100 - log_sum, 1e-4);
  EXPECT_NEAR(tail.ln_rest, std::log(std::exp(-25.0) + std::exp(-26.0)) - log_sum, 1e-5);
  std::vector<float> values(5);
  ASSERT_TRUE(decode_values(layout, row, values).ok());
  EXPECT_EQ(values[2], -kInfinity);
  // Nothing below the codes: the lowest entry is an entry.
  const std::vector<std::byte> whole = encoded(layout, {0, -1, -2, -3, -23}, 0);
  EXPECT_EQ(decode_tail(layout, whole).value().ln_rest, -kInfinity);
  ASSERT_TRUE(decode_values(layout, whole, values).ok());
  EXPECT_NEAR(values[4], -23 - normalized(std::vector<float>{0, -1, -2, -3, -23}).log_sum, 1e-5);
}

TEST(CompareWithRest, OneBucketByHand) {
  // P = 1/2, 1/4 and 1/4 over the last two; Q = 1/4 each.
  const std::vector<float> p = {std::log(0.5f), std::log(0.25f), -kInfinity, -kInfinity};
  const std::vector<float> q = {0, 0, 0, 0};
  const PositionRecord record = compare_with_rest(p, std::log(0.25), normalized(q), 0);
  EXPECT_NEAR(record.kld, 0.5 * std::log(2.0) - 0.25 * std::log(2.0), 1e-7);
  EXPECT_EQ(compare_with_rest(std::vector<float>{0, -1}, -std::numeric_limits<double>::infinity(),
                              normalized(std::vector<float>{0, -1}), 0)
                .kld,
            0);
}

TEST(BaseRow, EqualLogitsAndBrokenScales) {
  const BaseRowLayout layout{BaseEncoding::codes16, 4, 0, false};
  std::vector<std::byte> row = encoded(layout, {2, 2, 2, 2}, 0);
  std::vector<float> values(4);
  ASSERT_TRUE(decode_values(layout, row, values).ok());
  for (const float value : values) EXPECT_NEAR(value, -std::log(4.0), 1e-6);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(row.data(), &nan, sizeof nan);
  EXPECT_EQ(decode_values(layout, row, values).error().code, ErrorCode::corrupt);
}

TEST(BaseRow, PlainLogitsComeBackAsTheyWere) {
  Rng rng(3);
  const std::vector<float> logits = random_logits(rng, 37);
  const BaseRowLayout layout{BaseEncoding::logits32, 37, 0, false};
  std::vector<float> values(37);
  ASSERT_TRUE(decode_values(layout, encoded(layout, logits, 0), values).ok());
  EXPECT_EQ(values, logits);
}

TEST(BaseRow, TopEntriesAreALowerBoundThatTightens) {
  Rng rng(5);
  for (int round = 0; round < 10; ++round) {
    const std::vector<float> a = random_logits(rng, 60), b = random_logits(rng, 60);
    const PositionRecord full = compare_position(normalized(a), normalized(b), 11);
    double last = 0;
    for (const int64_t kept : {5, 20, 59, 60}) {
      const BaseRowLayout layout{BaseEncoding::top_entries, 60, kept, false};
      const auto entries = decode_top_entries(layout, encoded(layout, a, 11));
      ASSERT_TRUE(entries.ok()) << entries.error().message;
      const PositionRecord record = compare_top_entries(entries.value(), normalized(b), 11);
      EXPECT_LE(record.kld, full.kld + 1e-6);
      EXPECT_GE(record.kld, last - 1e-6);
      last = record.kld;
      EXPECT_NEAR(record.base_nll, full.base_nll, 1e-5);
      EXPECT_NEAR(record.entropy, full.entropy, 1e-5);
      EXPECT_EQ(record.nll, full.nll);
      EXPECT_EQ(record.rank, full.rank);
      EXPECT_EQ(record.top5_overlap, full.top5_overlap);
    }
    EXPECT_NEAR(last, full.kld, 1e-5);
  }
}

TEST(BaseRow, TopEntriesOutOfOrderAreRefused) {
  const BaseRowLayout layout{BaseEncoding::top_entries, 8, 5, false};
  std::vector<std::byte> row = encoded(layout, {1, 2, 3, 4, 5, 6, 7, 8}, 0);
  const int32_t far = 8;
  std::memcpy(row.data() + 12, &far, sizeof far);
  EXPECT_EQ(decode_top_entries(layout, row).error().code, ErrorCode::corrupt);
}

}  // namespace
}  // namespace nibble::eval
