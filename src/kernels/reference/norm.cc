// The norms as written in qwen3_5_moe.md 3.2.
#include "kernels/reference/norm.h"

#include "kernels/reference/elementwise.h"

#include <cmath>

namespace nibble::reference {
namespace {

double inverse_rms(const float* x, int64_t n, double eps) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double{x[i]} * x[i];
  return 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
}

}  // namespace

void rms_norm(const float* x, const float* weight, int64_t n, double eps, double* out) {
  const double factor = inverse_rms(x, n, eps);
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] * factor * (1.0 + weight[i]);
}

void gated_rms_norm(const float* core, const float* z, const float* weight, int64_t n, double eps,
                    double* out) {
  const double factor = inverse_rms(core, n, eps);
  for (int64_t i = 0; i < n; ++i) out[i] = core[i] * factor * weight[i] * silu(z[i]);
}

}  // namespace nibble::reference
