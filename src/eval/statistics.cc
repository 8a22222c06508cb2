#include "eval/statistics.h"

#include "base/check.h"

#include <algorithm>
#include <cmath>

namespace nibble::eval {

double MeanSum::variance_of_mean() const {
  if (count_ < 2) return 0;
  const double variance = mean_of_squares() - mean() * mean();
  return std::max(0.0, variance) / static_cast<double>(count_ - 1);
}

Estimate MeanSum::estimate() const {
  return {mean(), std::sqrt(variance_of_mean())};
}

double covariance_of_means(std::span<const double> x, std::span<const double> y) {
  NIBBLE_CHECK(x.size() == y.size(), "paired samples", x.size(), y.size());
  if (x.size() < 2) return 0;
  double sum_x = 0, sum_y = 0, sum_xy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum_x += x[i];
    sum_y += y[i];
    sum_xy += x[i] * y[i];
  }
  const auto n = static_cast<double>(x.size());
  return (sum_xy / n - (sum_x / n) * (sum_y / n)) / (n - 1);
}

Estimate exp_of_mean(const MeanSum& sum) {
  const Estimate mean = sum.estimate();
  const double value = std::exp(mean.value);
  return {value, value * mean.error};
}

Estimate share(int64_t hits, int64_t count) {
  if (count == 0) return {};
  const double s = static_cast<double>(hits) / static_cast<double>(count);
  return {s, count < 2 ? 0 : std::sqrt(s * (1 - s) / static_cast<double>(count - 1))};
}

double percentile(std::span<const double> sorted, double p) {
  NIBBLE_CHECK(!sorted.empty() && p >= 0 && p <= 1, "percentile", sorted.size(), p);
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  const double weight = at - static_cast<double>(below);
  if (weight == 0 || sorted[below] == sorted[above]) return sorted[below];
  return sorted[below] + weight * (sorted[above] - sorted[below]);
}

}  // namespace nibble::eval
