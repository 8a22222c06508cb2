// Matrix products in double; see linear.h.
#include "kernels/reference/linear.h"

#include <cmath>

namespace nibble::reference {
std::vector<Sum> linear(const std::vector<double>& x, int64_t m, const Matrix& matrix) {
  std::vector<Sum> y(static_cast<size_t>(m * matrix.n));
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < matrix.n; ++column) {
      const double* a = x.data() + row * matrix.k;
      const double* b = matrix.values.data() + column * matrix.k;
      Sum sum;
      for (int64_t i = 0; i < matrix.k; ++i) {
        sum.value += a[i] * b[i];
        sum.magnitude += std::fabs(a[i] * b[i]);
      }
      y[static_cast<size_t>(row * matrix.n + column)] = sum;
    }
  }
  return y;
}

}  // namespace nibble::reference
