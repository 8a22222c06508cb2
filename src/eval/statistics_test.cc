// Tests for the sums of the reports against values worked out by hand.
#include "eval/statistics.h"

#include "eval/perplexity.h"
#include "eval/softmax.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace nibble::eval {
namespace {

TEST(Statistics, MeanAndItsError) {
  MeanSum sum;
  for (const double x : {1.0, 2.0, 3.0, 6.0}) sum.add(x);
  // mean 3, mean of squares 12.5, variance of the mean (12.5 - 9) / 3.
  EXPECT_DOUBLE_EQ(sum.mean(), 3.0);
  EXPECT_DOUBLE_EQ(sum.estimate().error, std::sqrt(3.5 / 3));
  EXPECT_DOUBLE_EQ(exp_of_mean(sum).value, std::exp(3.0));
  EXPECT_DOUBLE_EQ(exp_of_mean(sum).error, std::exp(3.0) * std::sqrt(3.5 / 3));
  MeanSum one;
  one.add(5);
  EXPECT_EQ(one.estimate().error, 0);
}

TEST(Statistics, CovarianceOfMeans) {
  const std::vector<double> x = {1, 2, 3}, y = {2, 4, 9};
  // mean of products 37/3, product of means 2 * 5, over n - 1 = 2.
  EXPECT_NEAR(covariance_of_means(x, y), (37.0 / 3 - 10) / 2, 1e-15);
  EXPECT_EQ(covariance_of_means(std::vector<double>{1}, std::vector<double>{1}), 0);
}

TEST(Statistics, Share) {
  EXPECT_DOUBLE_EQ(share(3, 4).value, 0.75);
  EXPECT_DOUBLE_EQ(share(3, 4).error, std::sqrt(0.75 * 0.25 / 3));
}

TEST(Statistics, Percentile) {
  const std::vector<double> sorted = {10, 20, 40, 80};
  EXPECT_DOUBLE_EQ(percentile(sorted, 0), 10);
  EXPECT_DOUBLE_EQ(percentile(sorted, 1), 80);
  EXPECT_DOUBLE_EQ(percentile(sorted, 0.5), 30);  // mean of the middle two
  EXPECT_DOUBLE_EQ(percentile(sorted, 0.9), 40 + 0.7 * 40);
  EXPECT_DOUBLE_EQ(percentile(std::vector<double>{7}, 0.99), 7);
  const double infinity = std::numeric_limits<double>::infinity();
  EXPECT_EQ(percentile(std::vector<double>{0, infinity, infinity}, 0.75), infinity);
}

TEST(Softmax, HandRows) {
  const std::vector<float> row = {0, std::log(2.0f), std::log(5.0f)};  // 1/8, 2/8, 5/8
  EXPECT_NEAR(log_sum_exp(row), std::log(8.0), 1e-7);
  EXPECT_NEAR(negative_log_likelihood(row, 1), std::log(4.0), 1e-7);
  const std::vector<float> high = {1000, 1000};
  EXPECT_NEAR(negative_log_likelihood(high, 0), std::log(2.0), 1e-12);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(negative_log_likelihood(std::vector<float>{0, -infinity}, 0), 0);
  EXPECT_EQ(negative_log_likelihood(std::vector<float>{0, -infinity}, 1), infinity);
}

TEST(PositionBuckets, DoubleFrom256) {
  EXPECT_EQ(PositionBuckets::index_of(0), 0u);
  EXPECT_EQ(PositionBuckets::index_of(255), 0u);
  EXPECT_EQ(PositionBuckets::index_of(256), 1u);
  EXPECT_EQ(PositionBuckets::index_of(511), 1u);
  EXPECT_EQ(PositionBuckets::index_of(512), 2u);
  EXPECT_EQ(PositionBuckets::index_of(1023), 2u);
  EXPECT_EQ(PositionBuckets::index_of(1024), 3u);
  PositionBuckets buckets;
  buckets.add(10, 1.0);
  buckets.add(600, 3.0);
  buckets.add(700, 5.0);
  const auto found = buckets.buckets();
  ASSERT_EQ(found.size(), 3u);
  EXPECT_EQ(found[1].sum.count(), 0);
  EXPECT_EQ(found[2].first, 512);
  EXPECT_EQ(found[2].last, 1023);
  EXPECT_EQ(found[2].sum.mean(), 4.0);
}

}  // namespace
}  // namespace nibble::eval
