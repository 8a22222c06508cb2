#include "eval/softmax.h"

#include <algorithm>
#include <cmath>

namespace nibble::eval {

double log_sum_exp(std::span<const float> row) {
  const auto largest = static_cast<double>(*std::max_element(row.begin(), row.end()));
  double sum = 0;
  for (const float x : row) sum += std::exp(static_cast<double>(x) - largest);
  return largest + std::log(sum);
}

double negative_log_likelihood(std::span<const float> row, int32_t token) {
  return log_sum_exp(row) - static_cast<double>(row[static_cast<size_t>(token)]);
}

}  // namespace nibble::eval
