// Decay, read, correct, write, read: in this order.
#include "kernels/reference/delta.h"

#include "kernels/reference/elementwise.h"

#include <cmath>
#include <vector>

namespace nibble::reference {
namespace {

std::vector<double> l2_norm(const float* x, int64_t n, double scale) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  std::vector<double> out(x, x + n);
  for (double& value : out) value *= scale / std::sqrt(sum + 1e-6);
  return out;
}

}  // namespace

double delta_decay(float a, float a_log, float dt_bias) {
  return -std::exp(double{a_log}) * softplus(double{a} + dt_bias);
}

void gated_delta_step(const DeltaToken& token, int64_t key_dim, int64_t value_dim, double* state,
                      double* out) {
  const std::vector<double> query =
      l2_norm(token.q, key_dim, 1.0 / std::sqrt(static_cast<double>(key_dim)));
  const std::vector<double> key = l2_norm(token.k, key_dim, 1.0);
  for (int64_t i = 0; i < key_dim * value_dim; ++i) state[i] *= std::exp(token.g);
  for (int64_t j = 0; j < value_dim; ++j) {
    double predicted = 0;
    for (int64_t i = 0; i < key_dim; ++i) {
      predicted += state[i * value_dim + j] * key[static_cast<size_t>(i)];
    }
    const double delta = (token.v[j] - predicted) * token.beta;
    out[j] = 0;
    for (int64_t i = 0; i < key_dim; ++i) {
      state[i * value_dim + j] += key[static_cast<size_t>(i)] * delta;
      out[j] += state[i * value_dim + j] * query[static_cast<size_t>(i)];
    }
  }
}

}  // namespace nibble::reference
