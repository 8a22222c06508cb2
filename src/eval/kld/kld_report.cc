#include "eval/kld/kld_report.h"

#include "base/check.h"
#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace nibble::eval {
namespace {

constexpr size_t kWorst = 50;
constexpr int kFirstHalfDecade = -18;  // 1e-9
constexpr int kLastHalfDecade = 4;  // 1e2

std::vector<double> values_of(std::span<const PositionRecord> records,
                              double (*value)(const PositionRecord&)) {
  std::vector<double> out;
  out.reserve(records.size());
  for (const PositionRecord& record : records) out.push_back(value(record));
  return out;
}

MeanSum sum_of(std::span<const double> values) {
  MeanSum sum;
  for (const double value : values) sum.add(value);
  return sum;
}

// The paired figures: x is the nll under the model, y under the base.
void fill_perplexities(std::span<const PositionRecord> records, KldReport& report) {
  const auto x = values_of(records, [](const PositionRecord& r) { return r.nll; });
  const auto y = values_of(records, [](const PositionRecord& r) { return r.base_nll; });
  const MeanSum sum_x = sum_of(x), sum_y = sum_of(y);
  const double covariance = covariance_of_means(x, y);
  const double vx = sum_x.variance_of_mean(), vy = sum_y.variance_of_mean();
  report.perplexity = exp_of_mean(sum_x);
  report.base_perplexity = exp_of_mean(sum_y);
  report.correlation = vx > 0 && vy > 0 ? covariance / std::sqrt(vx * vy) : 0;
  report.ln_ratio = {sum_x.mean() - sum_y.mean(),
                     std::sqrt(std::max(0.0, vx + vy - 2 * covariance))};
  const double ratio = std::exp(report.ln_ratio.value);
  report.ratio = {ratio, ratio * report.ln_ratio.error};
  const double q = report.perplexity.value, p = report.base_perplexity.value;
  report.difference = {q - p,
                       std::sqrt(std::max(0.0, q * q * vx + p * p * vy - 2 * q * p * covariance))};
}

void fill_probabilities(std::span<const PositionRecord> records, KldReport& report) {
  const auto dp = values_of(
      records, [](const PositionRecord& r) { return r.probability() - r.base_probability(); });
  MeanSum squares, overlap, rank;
  int64_t same = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    squares.add(dp[i] * dp[i]);
    overlap.add(records[i].top5_overlap / 5.0);
    rank.add(records[i].rank);
    same += records[i].top == records[i].base_top;
  }
  report.dp = sum_of(dp).estimate();
  report.dp_spread = spread_of(dp);
  const double rms = std::sqrt(squares.mean());
  report.rms_dp = {rms, rms > 0 ? 0.5 / rms * squares.estimate().error : 0};
  report.same_top = share(same, report.tokens);
  report.top5_overlap = overlap.mean();
  report.mean_rank = rank.mean();
}

// Groups records by an index into labels; labels may be longer than what occurs.
KldSplit split_by(std::string name, std::span<const PositionRecord> records,
                  std::span<const size_t> part_of, const std::vector<std::string>& labels) {
  std::vector<std::vector<double>> values(labels.size());
  std::vector<int64_t> same(labels.size(), 0);
  for (size_t i = 0; i < records.size(); ++i) {
    values[part_of[i]].push_back(records[i].kld);
    same[part_of[i]] += records[i].top == records[i].base_top;
  }
  KldSplit split{std::move(name), {}};
  for (size_t part = 0; part < labels.size(); ++part) {
    if (values[part].empty()) continue;
    const MeanSum sum = sum_of(values[part]);
    std::sort(values[part].begin(), values[part].end());
    split.parts.push_back({labels[part], sum.count(), sum.mean(), percentile(values[part], 0.99),
                           share(same[part], sum.count()).value});
  }
  return split;
}

KldSplit split_by_entropy(std::span<const PositionRecord> records) {
  auto sorted = values_of(records, [](const PositionRecord& r) { return r.entropy; });
  std::sort(sorted.begin(), sorted.end());
  const std::array<double, 3> bounds = {percentile(sorted, 0.25), percentile(sorted, 0.5),
                                        percentile(sorted, 0.75)};
  std::vector<size_t> part_of;
  for (const PositionRecord& record : records) {
    part_of.push_back(static_cast<size_t>(std::count_if(
        bounds.begin(), bounds.end(), [&](double bound) { return record.entropy > bound; })));
  }
  const std::vector<std::string> labels = {fmt::format("up to {:.2g} nats", bounds[0]),
                                           fmt::format("{:.2g} to {:.2g}", bounds[0], bounds[1]),
                                           fmt::format("{:.2g} to {:.2g}", bounds[1], bounds[2]),
                                           fmt::format("above {:.2g}", bounds[2])};
  return split_by("entropy of the base", records, part_of, labels);
}

KldSplit split_by_position(std::span<const PositionRecord> records) {
  std::vector<size_t> part_of;
  PositionBuckets buckets;
  for (const PositionRecord& record : records) {
    part_of.push_back(PositionBuckets::index_of(record.position));
    buckets.add(record.position, 0);
  }
  std::vector<std::string> labels;
  for (const auto& bucket : buckets.buckets()) {
    labels.push_back(fmt::format("{}-{}", bucket.first, bucket.last));
  }
  return split_by("position", records, part_of, labels);
}

KldSplit split_by_kind(std::span<const PositionRecord> records, std::span<const TokenKind> kinds) {
  std::vector<size_t> part_of;
  for (const TokenKind kind : kinds) part_of.push_back(static_cast<size_t>(kind));
  std::vector<std::string> labels;
  for (int kind = 0; kind < kTokenKinds; ++kind) {
    labels.emplace_back(token_kind_name(static_cast<TokenKind>(kind)));
  }
  return split_by("true token", records, part_of, labels);
}

std::vector<HistogramBin> histogram_of(std::span<const PositionRecord> records) {
  std::vector<HistogramBin> bins;
  for (int half = kFirstHalfDecade; half < kLastHalfDecade; ++half) {
    bins.push_back({std::pow(10.0, half / 2.0), std::pow(10.0, (half + 1) / 2.0), 0});
  }
  for (const PositionRecord& record : records) {
    const auto bin = std::find_if(bins.begin(), bins.end() - 1,
                                  [&](const HistogramBin& b) { return record.kld < b.end; });
    ++bin->count;
  }
  return bins;
}

std::vector<size_t> worst_of(std::span<const PositionRecord> records) {
  std::vector<size_t> order(records.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const size_t count = std::min(kWorst, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(),
                    [&](size_t a, size_t b) {
                      if (records[a].kld != records[b].kld) return records[a].kld > records[b].kld;
                      return a < b;
                    });
  order.resize(count);
  return order;
}

std::vector<RunningValue> running_of(std::span<const PositionRecord> records) {
  std::vector<RunningValue> out;
  MeanSum nll, base_nll, kld;
  int64_t same = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    const PositionRecord& record = records[i];
    nll.add(record.nll);
    base_nll.add(record.base_nll);
    kld.add(record.kld);
    same += record.top == record.base_top;
    if (i + 1 < records.size() && records[i + 1].sequence == record.sequence) continue;
    out.push_back({record.sequence, kld.count(), std::exp(nll.mean()), std::exp(base_nll.mean()),
                   kld.mean(), share(same, kld.count()).value});
  }
  return out;
}

}  // namespace

Spread spread_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  Spread spread;
  for (size_t i = 0; i < spread.size(); ++i) {
    spread[i] = percentile(values, kSpreadPercents[i] / 100);
  }
  return spread;
}

KldReport make_kld_report(std::span<const PositionRecord> records,
                          std::span<const TokenKind> kinds) {
  NIBBLE_CHECK(!records.empty() && (kinds.empty() || kinds.size() == records.size()), "records",
               records.size(), kinds.size());
  KldReport report;
  report.tokens = static_cast<int64_t>(records.size());
  const auto kld = values_of(records, [](const PositionRecord& r) { return r.kld; });
  report.kld = sum_of(kld).estimate();
  report.kld_spread = spread_of(kld);
  fill_perplexities(records, report);
  fill_probabilities(records, report);
  report.splits = {split_by_entropy(records), split_by_position(records)};
  if (!kinds.empty()) report.splits.push_back(split_by_kind(records, kinds));
  report.histogram = histogram_of(records);
  report.worst = worst_of(records);
  report.running = running_of(records);
  return report;
}

}  // namespace nibble::eval
