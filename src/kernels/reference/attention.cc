// Two passes: scores and their maximum, then the weighted sum.
#include "kernels/reference/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace nibble::reference {

void attention(const float* query, const double* keys, const double* values, int64_t num_keys,
               int64_t head_dim, double* out) {
  std::vector<double> scores(static_cast<size_t>(num_keys));
  double maximum = -std::numeric_limits<double>::infinity();
  for (int64_t n = 0; n < num_keys; ++n) {
    double score = 0;
    for (int64_t d = 0; d < head_dim; ++d) score += query[d] * keys[n * head_dim + d];
    score /= std::sqrt(static_cast<double>(head_dim));
    scores[static_cast<size_t>(n)] = score;
    maximum = std::max(maximum, score);
  }
  double sum = 0;
  std::fill(out, out + head_dim, 0.0);
  for (int64_t n = 0; n < num_keys; ++n) {
    const double weight = std::exp(scores[static_cast<size_t>(n)] - maximum);
    sum += weight;
    for (int64_t d = 0; d < head_dim; ++d) out[d] += weight * values[n * head_dim + d];
  }
  for (int64_t d = 0; d < head_dim; ++d) out[d] /= sum;
}

}  // namespace nibble::reference
