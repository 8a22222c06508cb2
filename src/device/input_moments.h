// Second moments of a matrix's inputs, whole: what rounding with error feedback works on.
//
// Square matrices of K columns lie in panels of 16 columns, [K/16][K][16] f32, so that every
// product of theirs is one of tiles that a kernel reads from front to back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nibble::device {

/// Sum of g x x^T over inputs x of K columns. Only tiles on and above the diagonal are filled.
struct InputMoments {
  InputMoments() = default;
  /// K: a multiple of 16.
  explicit InputMoments(int64_t K)
      : columns(K), panels(static_cast<size_t>(K) * static_cast<size_t>(K)) {}

  /// Row and column in any order.
  float at(int64_t row, int64_t column) const {
    const bool is_stored = row / 16 <= column / 16;
    const int64_t r = is_stored ? row : column;
    const int64_t c = is_stored ? column : row;
    return panels[static_cast<size_t>((c / 16 * columns + r) * 16 + c % 16)];
  }

  int64_t columns = 0;
  double weight = 0;  // sum of g
  std::vector<float> panels;
};

/// Moments with their factors, columns in the order of rounding (the last place is rounded first).
/// R is upper triangular with R^T R = H.
struct FactoredMoments {
  int64_t columns = 0;
  std::vector<int32_t> order;  // by place: its column; the 16 columns of a block stay together
  std::vector<float> moments;  // H in panels, all tiles
  std::vector<float> factor;  // [K/16][K][16]: block b, place k, lane j holds R[16 b + j][k]
  std::vector<float> triangles;  // [K/16][16][16]: blocks on the diagonal of R
  std::vector<float> own_triangles;  // [K/16][16][16]: the factor of each diagonal block of H alone
};

}  // namespace nibble::device
