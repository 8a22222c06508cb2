// Tests of the sampler against a naive one (full sort, double precision) and against the
// distribution it must have.
//
// Vocabularies are no multiples of the block of 64. Seeds are fixed, so results are, too.
#include "device/host_sampler.h"

#include "base/rng.h"
#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

namespace nibble::device {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Roughly normal, deviation `scale`.
std::vector<float> random_logits(int64_t count, uint64_t seed, float scale) {
  Rng rng(seed);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits) {
    double sum = 0;
    for (int i = 0; i < 12; ++i) sum += rng.unit();
    logit = scale * static_cast<float>(sum - 6.0);
  }
  return logits;
}

std::vector<double> naive_changes(const std::vector<float>& logits, const SampleRow& row,
                                  int32_t limit) {
  std::vector<double> changed(logits.begin(), logits.begin() + limit);
  for (int32_t i = 0; i < limit; ++i) {
    if (row.allowed != nullptr && (row.allowed[i / 64] >> (i % 64) & 1) == 0) {
      changed[static_cast<size_t>(i)] = -kInfinity;
    }
  }
  for (int32_t i = 0; i < row.num_bias; ++i) {
    changed[static_cast<size_t>(row.bias[i].token)] += static_cast<double>(row.bias[i].bias);
  }
  for (int32_t i = 0; i < row.num_counts; ++i) {
    const TokenCount& seen = row.counts[i];
    double& logit = changed[static_cast<size_t>(seen.token)];
    const double r = row.repetition_penalty;
    logit = logit > 0 ? logit / r : logit * r;
    logit -= static_cast<double>(row.frequency_penalty) * seen.output_count;
    if (seen.output_count > 0) logit -= static_cast<double>(row.presence_penalty);
  }
  return changed;
}

/// Probabilities after the whole chain, by spec serving.md 11 with a full sort.
std::vector<double> naive_probabilities(const std::vector<float>& logits, const SampleRow& row,
                                        int32_t limit) {
  std::vector<double> p = naive_changes(logits, row, limit);
  const double max = *std::max_element(p.begin(), p.end());
  for (double& value : p) value = std::exp((value - max) / static_cast<double>(row.temperature));
  for (double& value : p) value = value < static_cast<double>(row.min_p) ? 0.0 : value;
  std::vector<size_t> order(p.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  if (row.top_k > 0 && row.top_k < limit) {
    const double least = p[order[static_cast<size_t>(row.top_k - 1)]];
    for (double& value : p) value = value < least ? 0.0 : value;
  }
  if (row.top_p < 1.0f) {
    const double target = std::accumulate(p.begin(), p.end(), 0.0) * static_cast<double>(row.top_p);
    double mass = 0;
    for (const size_t i : order) {
      if (mass >= target) p[i] = 0.0;
      mass += p[i];
    }
  }
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& value : p) value /= total;
  return p;
}

/// The token at `u` of the cumulative distribution in ascending id, and how near u is to an edge.
std::pair<int32_t, double> naive_draw(const std::vector<double>& p, double u) {
  double mass = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double before = mass;
    mass += p[i];
    if (u < mass) return {static_cast<int32_t>(i), std::min(u - before, mass - u)};
  }
  return {-1, 0.0};
}

struct Case {
  SampleRow row;
  std::vector<TokenCount> counts;
  std::vector<LogitBias> bias;
  std::vector<uint64_t> allowed;
};

/// Settings of all kinds, from neutral to everything at once.
Case random_case(Rng& rng, int32_t limit) {
  Case c;
  c.row.temperature = 0.3f + 1.5f * static_cast<float>(rng.unit());
  if (rng.below(2) == 0) c.row.top_p = 0.05f + 0.94f * static_cast<float>(rng.unit());
  if (rng.below(3) == 0) c.row.top_k = 1 + static_cast<int32_t>(rng.below(40));
  if (rng.below(9) == 0)
    c.row.top_k = static_cast<int32_t>(rng.below(static_cast<uint64_t>(limit)));
  if (rng.below(3) == 0) c.row.min_p = 0.3f * static_cast<float>(rng.unit());
  const auto token = [&] { return static_cast<int32_t>(rng.below(static_cast<uint64_t>(limit))); };
  if (rng.below(3) == 0) {
    c.row.repetition_penalty = 1.3f;
    c.row.presence_penalty = 0.7f;
    c.row.frequency_penalty = 0.2f;
    for (int i = 0; i < 20; ++i) c.counts.push_back({20 * i, 1, i % 3});
  }
  if (rng.below(3) == 0) {
    for (int i = 0; i < 5; ++i) c.bias.push_back({token(), 4.0f * static_cast<float>(rng.unit())});
    c.bias.push_back({token(), -kInfinity});
  }
  if (rng.below(4) == 0) {
    for (int32_t i = 0; i <= limit / 64; ++i) c.allowed.push_back(rng.bits() | rng.bits());
  }
  c.row.seed = rng.bits();
  c.row.draw_index = rng.below(1000);
  c.row.top_logprobs = -1;
  return c;
}

void link_pointers(Case& c) {
  c.row.counts = c.counts.data();
  c.row.num_counts = static_cast<int32_t>(c.counts.size());
  c.row.bias = c.bias.data();
  c.row.num_bias = static_cast<int32_t>(c.bias.size());
  c.row.allowed = c.allowed.empty() ? nullptr : c.allowed.data();
}

TEST(RowSampler, DrawsWhatTheNaiveSamplerDraws) {
  constexpr int32_t kVocab = 1003;
  constexpr int32_t kLimit = 997;
  RowSampler sampler(kVocab);
  Rng rng(1);
  int compared = 0;
  for (int i = 0; i < 3000; ++i) {
    const auto logits = random_logits(kVocab, static_cast<uint64_t>(i), i % 2 == 0 ? 1.0f : 4.0f);
    Case c = random_case(rng, kLimit);
    link_pointers(c);
    const double u = random_unit(c.row.seed, c.row.draw_index);
    const auto p = naive_probabilities(logits, c.row, kLimit);
    const auto [expected, distance] = naive_draw(p, u);
    const SampleResult result = sampler.sample_row(logits.data(), c.row, kLimit);
    ASSERT_TRUE(result.finite);
    ASSERT_GE(result.token, 0);
    ASSERT_GT(p[static_cast<size_t>(result.token)], 0.0) << "case " << i;
    // Weights are f32 here and double there: within 1e-5 of an edge the neighbour may be drawn.
    if (distance < 1e-5) continue;
    ++compared;
    ASSERT_EQ(result.token, expected) << "case " << i << " u " << u;
  }
  EXPECT_GT(compared, 2900);
}

/// Pearson's statistic of `draws` samples; tokens that may not occur fail at once.
double chi_square(RowSampler& sampler, const std::vector<float>& logits, SampleRow row, int draws,
                  int* degrees) {
  const auto limit = static_cast<int32_t>(logits.size());
  const auto p = naive_probabilities(logits, row, limit);
  std::vector<int> seen(logits.size(), 0);
  for (int i = 0; i < draws; ++i) {
    row.draw_index = static_cast<uint64_t>(i);
    ++seen[static_cast<size_t>(sampler.sample_row(logits.data(), row, limit).token)];
  }
  double statistic = 0;
  *degrees = -1;
  for (size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0.0) {
      EXPECT_EQ(seen[i], 0) << "token " << i;
      continue;
    }
    const double expected = p[i] * draws;
    statistic += (seen[i] - expected) * (seen[i] - expected) / expected;
    ++*degrees;
  }
  return statistic;
}

TEST(RowSampler, DistributionPassesChiSquare) {
  constexpr int kDraws = 200000;
  const auto logits = random_logits(70, 5, 1.0f);
  RowSampler sampler(70);
  SampleRow rows[4];
  for (SampleRow& row : rows) {
    row.temperature = 0.9f;
    row.top_logprobs = -1;
    row.seed = 12345;
  }
  rows[1].top_k = 20;
  rows[2].top_p = 0.8f;
  rows[3].min_p = 0.1f;
  rows[3].top_p = 0.9f;
  for (const SampleRow& row : rows) {
    int degrees = 0;
    const double statistic = chi_square(sampler, logits, row, kDraws, &degrees);
    // Mean d, deviation sqrt(2d); four deviations either way also catch draws that are too even.
    const double deviation = std::sqrt(2.0 * degrees);
    EXPECT_NEAR(statistic, degrees, 4.0 * deviation) << "degrees " << degrees;
    EXPECT_GE(degrees, 3);
  }
}

TEST(RowSampler, GreedyTakesTheLowestOfEqualLogits) {
  std::vector<float> logits(500, -1.0f);
  logits[70] = logits[71] = logits[300] = 2.0f;
  RowSampler sampler(500);
  SampleRow row;
  EXPECT_EQ(sampler.sample_row(logits.data(), row, 500).token, 70);
  logits[499] = 3.0f;
  EXPECT_EQ(sampler.sample_row(logits.data(), row, 500).token, 499);
  EXPECT_EQ(sampler.sample_row(logits.data(), row, 499).token, 70) << "vocab_limit ignored";
}

TEST(RowSampler, TopKKeepsTiesWithTheLastPlace) {
  std::vector<float> logits(200, 0.0f);
  logits[10] = 3.0f;
  logits[20] = logits[150] = logits[199] = 2.0f;
  RowSampler sampler(200);
  SampleRow row;
  row.temperature = 1.0f;
  row.top_k = 2;
  std::vector<int> seen(200, 0);
  for (uint64_t i = 0; i < 2000; ++i) {
    row.draw_index = i;
    ++seen[static_cast<size_t>(sampler.sample_row(logits.data(), row, 200).token)];
  }
  EXPECT_EQ(seen[10] + seen[20] + seen[150] + seen[199], 2000);
  for (const int token : {10, 20, 150, 199}) EXPECT_GT(seen[static_cast<size_t>(token)], 200);
}

TEST(RowSampler, TopPKeepsTheLowestIdsOfEqualLogits) {
  const std::vector<float> logits(1000, 0.5f);
  RowSampler sampler(1000);
  SampleRow row;
  row.temperature = 1.0f;
  row.top_p = 0.2495f;  // 249.5 tokens
  int32_t highest = 0;
  for (row.draw_index = 0; row.draw_index < 4000; ++row.draw_index) {
    highest = std::max(highest, sampler.sample_row(logits.data(), row, 1000).token);
  }
  EXPECT_EQ(highest, 249);
}

TEST(RowSampler, ReportsLogitsThatAreNotFinite) {
  RowSampler sampler(300);
  SampleRow row;
  for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
    for (const size_t at : {size_t{0}, size_t{63}, size_t{130}, size_t{299}}) {
      std::vector<float> logits(300, 1.0f);
      logits[at] = bad;
      const SampleResult result = sampler.sample_row(logits.data(), row, 300);
      EXPECT_FALSE(result.finite);
      EXPECT_EQ(result.token, -1);
    }
  }
  std::vector<float> logits(300, 1.0f);
  logits[299] = kInfinity;
  EXPECT_TRUE(sampler.sample_row(logits.data(), row, 299).finite) << "id without a token";
}

TEST(RowSampler, ForcedTokenWinsAndHasItsLogprob) {
  const auto logits = random_logits(300, 3, 1.0f);
  RowSampler sampler(300);
  SampleRow row;
  row.forced_token = 17;
  const SampleResult result = sampler.sample_row(logits.data(), row, 300);
  EXPECT_EQ(result.token, 17);
  EXPECT_LT(result.logprob, 0.0f);
}

TEST(RowSampler, NothingAllowedGivesNoToken) {
  const auto logits = random_logits(128, 3, 1.0f);
  const std::vector<uint64_t> none(2, 0);
  RowSampler sampler(128);
  SampleRow row;
  row.allowed = none.data();
  const SampleResult result = sampler.sample_row(logits.data(), row, 128);
  EXPECT_EQ(result.token, -1);
  EXPECT_TRUE(result.finite);
}

TEST(RowSampler, LogprobsRanksAndTopAreThoseOfTheRawLogits) {
  constexpr int32_t kVocab = 2000;
  const auto logits = random_logits(kVocab, 9, 3.0f);
  const LogitBias bias[] = {{123, 100.0f}};
  SampleRow row;
  row.bias = bias;
  row.num_bias = 1;
  row.top_logprobs = 20;
  RowSampler sampler(kVocab);
  const SampleResult result = sampler.sample_row(logits.data(), row, kVocab);
  EXPECT_EQ(result.token, 123);

  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  const double log_sum = std::log(sum);
  EXPECT_NEAR(result.logprob, static_cast<double>(logits[123]) - log_sum, 2e-6);
  EXPECT_EQ(result.rank, std::count_if(logits.begin(), logits.end(),
                                       [&](float logit) { return logit > logits[123]; }));
  std::vector<int32_t> order(kVocab);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  ASSERT_EQ(result.num_top, 20);
  for (int32_t i = 0; i < 20; ++i) {
    EXPECT_EQ(result.top_tokens[i], order[static_cast<size_t>(i)]);
    const double logit = logits[static_cast<size_t>(result.top_tokens[i])];
    EXPECT_NEAR(result.top_logprobs[i], logit - log_sum, 2e-6);
  }
}

TEST(HostSampler, RowsDoNotDependOnBatchOrThreads) {
  constexpr int64_t kVocab = 5000;
  constexpr int kRows = 9;
  std::vector<float> logits;
  std::vector<SampleRow> rows(kRows);
  for (int i = 0; i < kRows; ++i) {
    const auto part = random_logits(kVocab, static_cast<uint64_t>(i), 2.0f);
    logits.insert(logits.end(), part.begin(), part.end());
    SampleRow& row = rows[static_cast<size_t>(i)];
    row.logits_row = kRows - 1 - i;
    row.temperature = i % 3 == 0 ? 0.0f : 1.0f;
    row.top_p = i % 2 == 0 ? 0.9f : 1.0f;
    row.seed = 7;
    row.draw_index = static_cast<uint64_t>(i);
  }
  const ConstTensorView view(reinterpret_cast<const std::byte*>(logits.data()), DType::f32,
                             {kRows, kVocab});
  SamplePlan plan;
  plan.num_rows = kRows;
  plan.rows = rows.data();
  plan.vocab_limit = kVocab;
  ThreadPool pool(3, {});
  HostSampler sampler(kVocab, 3);
  SampleResult together[kRows];
  sampler.run(plan, view, together, pool);

  RowSampler alone(kVocab);
  for (int i = 0; i < kRows; ++i) {
    const SampleRow& row = rows[static_cast<size_t>(i)];
    const SampleResult result =
        alone.sample_row(logits.data() + row.logits_row * kVocab, row, kVocab);
    EXPECT_EQ(together[i].token, result.token);
    EXPECT_EQ(together[i].logprob, result.logprob);
    EXPECT_EQ(together[i].rank, result.rank);
  }
}

}  // namespace
}  // namespace nibble::device
