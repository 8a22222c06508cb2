// C = diag(scale) C + A B in f32: the register-tiled product under attention and the delta rule.
//
// Included inside an anonymous namespace after vec.inl. Every element is one chain of fused
// multiply-adds over k ascending, started from the scaled C: its bits do not depend on the tile
// shape, the number of rows or the element's place.

/// A element (i, k) lies at a[i * a_row + k * a_k]; B and C are row-major.
struct TileGemm {
  const float* a;
  int64_t a_row;
  int64_t a_k;
  const float* b;
  int64_t ldb;
  float* c;
  int64_t ldc;
  const float* scale;  // [rows]; null: C starts at zero
  int64_t rows;
  int64_t cols;
  int64_t depth;
};

template <int kRows, int kVecs>
inline void tile_product(const TileGemm& g, int64_t row, int64_t col) {
  Vec acc[kRows][kVecs];
  float* c = g.c + row * g.ldc + col;
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVecs; ++j) {
      acc[i][j] = g.scale == nullptr ? v_set(0.0f)
                                     : v_set(g.scale[row + i]) * v_load(c + i * g.ldc + j * kLanes);
    }
  }
  const float* a = g.a + row * g.a_row;
  const float* b = g.b + col;
  const int64_t a_row = g.a_row, a_k = g.a_k, ldb = g.ldb;
  for (int64_t k = 0; k < g.depth; ++k) {
    Vec bv[kVecs];
    for (int j = 0; j < kVecs; ++j) bv[j] = v_load(b + j * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const Vec av = v_set(a[i * a_row]);
      for (int j = 0; j < kVecs; ++j) acc[i][j] = v_fma(av, bv[j], acc[i][j]);
    }
    a += a_k;
    b += ldb;
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kVecs; ++j) v_store(c + i * g.ldc + j * kLanes, acc[i][j]);
  }
}

/// The last columns, fewer than a vector.
inline void tile_product_part(const TileGemm& g, int64_t row, int64_t col, int64_t count) {
  float* c = g.c + row * g.ldc + col;
  Vec acc = g.scale == nullptr ? v_set(0.0f) : v_set(g.scale[row]) * v_load_part(c, count);
  for (int64_t k = 0; k < g.depth; ++k) {
    acc = v_fma(v_set(g.a[row * g.a_row + k * g.a_k]), v_load_part(g.b + k * g.ldb + col, count),
                acc);
  }
  v_store_part(c, acc, count);
}

template <int kVecs>
inline void tile_column(const TileGemm& g, int64_t col) {
  int64_t row = 0;
  while (row < g.rows) {
    // Even tiles at the end: 8 rows are 4 + 4, not 6 + 2.
    const int64_t left = g.rows - row;
    const int64_t take = left >= 2 * kTileRows ? kTileRows
                         : left > kTileRows    ? (left + 1) / 2
                                               : left;
    switch (take) {
      case 6:
        tile_product<kTileRows, kVecs>(g, row, col);
        break;
      case 5:
        tile_product < kTileRows<5 ? kTileRows : 5, kVecs>(g, row, col);
        break;
      case 4:
        tile_product<4, kVecs>(g, row, col);
        break;
      case 3:
        tile_product<3, kVecs>(g, row, col);
        break;
      case 2:
        tile_product<2, kVecs>(g, row, col);
        break;
      default:
        tile_product<1, kVecs>(g, row, col);
        break;
    }
    row += take;
  }
}

inline void tile_gemm(const TileGemm& g) {
  int64_t col = 0;
  for (; col + kTileVecs * kLanes <= g.cols; col += kTileVecs * kLanes) {
    tile_column<kTileVecs>(g, col);
  }
  for (; col + kLanes <= g.cols; col += kLanes) tile_column<1>(g, col);
  if (col < g.cols) {
    for (int64_t row = 0; row < g.rows; ++row) tile_product_part(g, row, col, g.cols - col);
  }
}
