// Means with standard errors, paired sums, percentiles: the arithmetic of the reports.
//
// var of a mean = (mean of squares - square of mean) / (n - 1) (spec eval.md 3.2). Sums in double,
// in the order of add().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble::eval {

struct Estimate {
  double value = 0;
  double error = 0;  // standard error; 0 when it cannot be known (fewer than two samples)
};

class MeanSum {
 public:
  void add(double x) {
    ++count_;
    sum_ += x;
    sum_of_squares_ += x * x;
  }
  int64_t count() const { return count_; }
  double sum() const { return sum_; }
  double mean() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_); }
  double mean_of_squares() const {
    return count_ == 0 ? 0 : sum_of_squares_ / static_cast<double>(count_);
  }
  /// Of the mean; 0 for fewer than two samples.
  double variance_of_mean() const;
  Estimate estimate() const;

 private:
  int64_t count_ = 0;
  double sum_ = 0;
  double sum_of_squares_ = 0;
};

/// Covariance of the means of two equally long samples; 0 for fewer than two.
double covariance_of_means(std::span<const double> x, std::span<const double> y);

/// exp of a mean with the error carried over: value * error of the mean.
Estimate exp_of_mean(const MeanSum& sum);

/// A share with its error sqrt(s (1 - s) / (n - 1)).
Estimate share(int64_t hits, int64_t count);

/// Linear interpolation at p (n - 1) of `sorted` (ascending, not empty), p in 0 .. 1.
double percentile(std::span<const double> sorted, double p);

}  // namespace nibble::eval
