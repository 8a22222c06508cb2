// Plain formulas, safe at both ends of the range.
#include "kernels/reference/elementwise.h"

#include <algorithm>
#include <cmath>

namespace nibble::reference {

double sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return x < 0 ? e / (1.0 + e) : 1.0 / (1.0 + e);
}

double silu(double x) {
  return x * sigmoid(x);
}

double softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
}

void sigmoid_gate(const float* x, const float* gate, int64_t n, double* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * sigmoid(gate[i]);
}

void moe_add_shared(const float* base, const float* routed, const float* shared, float gate_logit,
                    int64_t n, double* out) {
  const double gate = sigmoid(gate_logit);
  for (int64_t i = 0; i < n; ++i) {
    out[i] = (base == nullptr ? 0.0 : base[i]) + routed[i] + gate * shared[i];
  }
}

}  // namespace nibble::reference
