// Matrix products in double: the oracle of kernels/cpu/linear and kernels/cpu/moe.
//
// Plain loops, no speed goals, never on the product's path. Every result comes with the sum of the
// magnitudes it was summed from, because error bounds are proportional to that and not to the
// result.
#pragma once

#include <cstdint>
#include <vector>

namespace nibble::reference {

struct Matrix {
  std::vector<double> values;  // [n][k]
  int64_t n = 0;
  int64_t k = 0;
};

/// A sum and the sum of its terms' magnitudes.
struct Sum {
  double value = 0;
  double magnitude = 0;
};

/// x [m][k] times matrix^T: [m][n].
std::vector<Sum> linear(const std::vector<double>& x, int64_t m, const Matrix& matrix);

}  // namespace nibble::reference
