// Tests for the figures of a KL divergence against values worked out by hand.
#include "eval/kld/kld_report.h"

#include "eval/kld/kld_result.h"
#include "eval/kld/layer_errors.h"
#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::eval {
namespace {

PositionRecord record(int32_t sequence, int32_t position, double kld, double p_base, double p) {
  PositionRecord out;
  out.sequence = sequence;
  out.position = position;
  out.kld = kld;
  out.base_nll = -std::log(p_base);
  out.nll = -std::log(p);
  out.entropy = kld * 10;
  out.top5_overlap = 5;
  return out;
}

std::vector<PositionRecord> four_records() {
  std::vector<PositionRecord> records = {record(0, 1, 0.1, 0.5, 0.25), record(0, 2, 0.2, 0.5, 0.5),
                                         record(1, 1, 0.3, 0.25, 0.5),
                                         record(1, 300, 0.6, 0.5, 0.25)};
  records[3].top = 4;  // its arg-max differs
  records[3].rank = 5;
  records[3].top5_overlap = 3;
  return records;
}

TEST(KldReport, Means) {
  const KldReport report = make_kld_report(four_records(), {});
  EXPECT_EQ(report.tokens, 4);
  EXPECT_NEAR(report.kld.value, 0.3, 1e-15);
  // mean of squares 0.125, less 0.09, over 3.
  EXPECT_NEAR(report.kld.error, std::sqrt(0.035 / 3), 1e-12);
  EXPECT_NEAR(report.kld_spread[0], 0.6, 1e-15);
  EXPECT_NEAR(report.kld_spread[6], 0.25, 1e-15);  // median: mean of the middle two
  EXPECT_NEAR(report.kld_spread[12], 0.1, 1e-15);
  // dp: -0.25, 0, 0.25, -0.25.
  EXPECT_NEAR(report.dp.value, -0.0625, 1e-12);
  EXPECT_NEAR(report.rms_dp.value, std::sqrt(0.1875 / 4), 1e-12);
  EXPECT_NEAR(report.same_top.value, 0.75, 1e-15);
  EXPECT_NEAR(report.same_top.error, 0.25, 1e-12);
  EXPECT_NEAR(report.top5_overlap, (1 + 1 + 1 + 0.6) / 4, 1e-15);
  EXPECT_NEAR(report.mean_rank, 2, 1e-15);
}

TEST(KldReport, PerplexitiesArePaired) {
  const KldReport report = make_kld_report(four_records(), {});
  const double ln2 = std::log(2.0);
  // nll: 2, 1, 1, 2 and base 1, 1, 2, 1, in units of ln 2.
  EXPECT_NEAR(report.perplexity.value, std::exp(1.5 * ln2), 1e-12);
  EXPECT_NEAR(report.base_perplexity.value, std::exp(1.25 * ln2), 1e-12);
  EXPECT_NEAR(report.ln_ratio.value, 0.25 * ln2, 1e-12);
  EXPECT_NEAR(report.ratio.value, std::exp2(0.25), 1e-12);
  const double vx = 0.25 / 3, vy = 0.1875 / 3, cov = (1.75 - 1.5 * 1.25) / 3;
  EXPECT_NEAR(report.ln_ratio.error, ln2 * std::sqrt(vx + vy - 2 * cov), 1e-12);
  EXPECT_NEAR(report.correlation, cov / std::sqrt(vx * vy), 1e-12);
  const double q = std::exp2(1.5), p = std::exp2(1.25);
  EXPECT_NEAR(report.difference.value, q - p, 1e-12);
  EXPECT_NEAR(report.difference.error, ln2 * std::sqrt(q * q * vx + p * p * vy - 2 * q * p * cov),
              1e-12);
}

TEST(KldReport, EqualModelsHaveNoUncertainty) {
  std::vector<PositionRecord> records = {record(0, 1, 0, 0.5, 0.5), record(0, 2, 0, 0.3, 0.3)};
  const KldReport report = make_kld_report(records, {});
  EXPECT_EQ(report.kld.value, 0);
  EXPECT_EQ(report.ratio.value, 1);
  EXPECT_NEAR(report.ratio.error, 0, 1e-9);
  EXPECT_NEAR(report.correlation, 1, 1e-9);
}

TEST(KldReport, SplitsHoldEveryRecordOnce) {
  const std::vector<TokenKind> kinds = {TokenKind::number, TokenKind::word_start, TokenKind::number,
                                        TokenKind::special};
  const KldReport report = make_kld_report(four_records(), kinds);
  ASSERT_EQ(report.splits.size(), 3u);
  for (const KldSplit& split : report.splits) {
    int64_t tokens = 0;
    for (const KldPart& part : split.parts) tokens += part.tokens;
    EXPECT_EQ(tokens, 4) << split.name;
  }
  EXPECT_EQ(report.splits[0].parts.size(), 4u);  // one record a quartile
  EXPECT_EQ(report.splits[1].parts[1].label, "256-511");
  EXPECT_NEAR(report.splits[1].parts[0].mean_kld, 0.2, 1e-12);
  EXPECT_EQ(report.splits[2].parts[1].label, "number");
  EXPECT_NEAR(report.splits[2].parts[1].mean_kld, 0.2, 1e-12);
}

TEST(KldReport, WorstHistogramAndRunningValues) {
  std::vector<PositionRecord> records = four_records();
  records.push_back(record(2, 1, 0, 0.5, 0.5));
  const KldReport report = make_kld_report(records, {});
  EXPECT_EQ(report.worst, (std::vector<size_t>{3, 2, 1, 0, 4}));
  int64_t counted = 0;
  for (const HistogramBin& bin : report.histogram) counted += bin.count;
  EXPECT_EQ(counted, 5);
  EXPECT_EQ(report.histogram.front().count, 1);  // the zero
  ASSERT_EQ(report.running.size(), 3u);
  EXPECT_EQ(report.running[0].tokens, 2);
  EXPECT_NEAR(report.running[0].mean_kld, 0.15, 1e-12);
  EXPECT_NEAR(report.running[1].mean_kld, 0.3, 1e-12);
  EXPECT_NEAR(report.running[2].mean_kld, report.kld.value, 1e-15);
  EXPECT_NEAR(report.running[2].perplexity, report.perplexity.value, 1e-12);
}

TEST(NoiseRemark, OnlyAboveTheGoal) {
  KldResult result;
  EXPECT_EQ(noise_remark(result), "");
  result.noise.push_back(noise_floor_of("low", std::vector{record(0, 1, 9e-5, 0.5, 0.5)}));
  EXPECT_EQ(noise_remark(result), "");
  result.noise.push_back(noise_floor_of("high", std::vector{record(0, 1, 3e-4, 0.5, 0.5)}));
  EXPECT_NE(noise_remark(result).find("3.0e-04, is above 1e-04"), std::string::npos);
}

TEST(TokenKind, ByFirstCharacter) {
  EXPECT_EQ(token_kind(" the", "x"), TokenKind::word_start);
  EXPECT_EQ(token_kind("ing", "go"), TokenKind::word_inside);
  EXPECT_EQ(token_kind("The", "\n"), TokenKind::word_start);
  EXPECT_EQ(token_kind("The", ""), TokenKind::word_start);
  EXPECT_EQ(token_kind(" 12", "a"), TokenKind::number);
  EXPECT_EQ(token_kind(".\n", "a"), TokenKind::punctuation);
  EXPECT_EQ(token_kind("\n\n", "a"), TokenKind::white_space);
  EXPECT_EQ(token_kind("", "a"), TokenKind::special);
  EXPECT_EQ(token_kind("\xC3\xA9", "a"), TokenKind::word_inside);
}

Tensor floats(const std::vector<std::vector<float>>& rows) {
  Tensor tensor(DType::f32,
                {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())});
  float* next = tensor.view().as<float>();
  for (const auto& row : rows) next = std::copy(row.begin(), row.end(), next);
  return tensor;
}

Tensor experts(const std::vector<std::vector<int32_t>>& rows) {
  Tensor tensor(DType::i32,
                {static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())});
  int32_t* next = tensor.view().as<int32_t>();
  for (const auto& row : rows) next = std::copy(row.begin(), row.end(), next);
  return tensor;
}

TEST(HiddenError, ByHand) {
  HiddenError error;
  const Tensor base = floats({{3, 4}, {0, 2}}), model = floats({{3, 4}, {2, 0}});
  error.add(base.view(), model.view());
  EXPECT_EQ(error.rows(), 2);
  EXPECT_NEAR(error.cosine(), 0.5, 1e-15);  // 1 and 0
  EXPECT_NEAR(error.relative_rms(), std::sqrt(8.0 / 29.0), 1e-15);
}

TEST(RoutingAgreement, ByHand) {
  RoutingAgreement agreement;
  const Tensor p = floats({{0, 0}, {0, 0}}), q = floats({{0, 0}, {std::log(3.0f), 0}});
  const Tensor a = experts({{0, 1}, {2, 3}}), b = experts({{1, 0}, {3, 4}});
  agreement.add({p.view(), a.view()}, {q.view(), b.view()});
  EXPECT_EQ(agreement.rows(), 2);
  EXPECT_NEAR(agreement.same_set().value, 0.5, 1e-15);
  EXPECT_NEAR(agreement.overlap(), 0.75, 1e-15);
  // Second row: P = (1/2, 1/2), Q = (3/4, 1/4).
  const double kld = 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25);
  EXPECT_NEAR(agreement.kld().value, kld / 2, 1e-7);
}

}  // namespace
}  // namespace nibble::eval
