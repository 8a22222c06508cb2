// Input moments on the host: sums over rows, and their Cholesky factors, in tiles of 16 x 16.
//
// Everything but the factors of single tiles is products of tiles with a fixed order of summation:
// the same bits with any number of threads.
#include "base/check.h"
#include "device/device.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace nibble::device {
namespace {

constexpr int64_t kBlock = 16;
constexpr int64_t kTile = kBlock * kBlock;

// rows [n][K], each times its factor, as [K/16][n][16].
std::vector<float> in_panels(std::span<const float> rows, int64_t columns, const float* factors) {
  std::vector<float> out(rows.size());
  const int64_t count = static_cast<int64_t>(rows.size()) / columns;
  for (int64_t i = 0; i < count; ++i) {
    const float factor = factors == nullptr ? 1.0f : factors[i];
    const float* row = rows.data() + i * columns;
    for (int64_t k = 0; k < columns; ++k) {
      out[static_cast<size_t>((k / kBlock * count + i) * kBlock + k % kBlock)] = factor * row[k];
    }
  }
  return out;
}

// Blocks by rising mean of their diagonal, and so the columns of each: what matters most is
// rounded first, while all others can still make up for it.
std::vector<int32_t> rounding_order(const InputMoments& moments) {
  const auto blocks = static_cast<size_t>(moments.columns / kBlock);
  std::vector<double> means(blocks);
  for (int64_t k = 0; k < moments.columns; ++k) {
    means[static_cast<size_t>(k / kBlock)] += static_cast<double>(moments.at(k, k));
  }
  std::vector<int32_t> by_mean(blocks);
  std::iota(by_mean.begin(), by_mean.end(), 0);
  std::stable_sort(by_mean.begin(), by_mean.end(), [&](int32_t a, int32_t b) {
    return means[static_cast<size_t>(a)] < means[static_cast<size_t>(b)];
  });
  std::vector<int32_t> order;
  for (const int32_t block : by_mean) {
    for (int32_t i = 0; i < kBlock; ++i) order.push_back(block * static_cast<int32_t>(kBlock) + i);
    std::stable_sort(order.end() - kBlock, order.end(),
                     [&](int32_t a, int32_t b) { return moments.at(a, a) < moments.at(b, b); });
  }
  return order;
}

// Upper factor of one tile, in place; rows below the diagonal become 0. A pivot cannot be smaller
// than what was added to the diagonal: where rounding made it so, it is that.
void factor_tile(float* tile, double smallest_pivot) {
  double sums[kTile];
  std::copy_n(tile, kTile, sums);
  for (int64_t i = 0; i < kBlock; ++i) {
    const double pivot = std::sqrt(std::max(sums[i * kBlock + i], smallest_pivot));
    for (int64_t j = 0; j < kBlock; ++j) {
      const double value = j < i ? 0 : (j == i ? pivot : sums[i * kBlock + j] / pivot);
      sums[i * kBlock + j] = value;
      tile[i * kBlock + j] = static_cast<float>(value);
    }
    for (int64_t r = i + 1; r < kBlock; ++r) {
      for (int64_t j = r; j < kBlock; ++j) {
        sums[r * kBlock + j] -= sums[i * kBlock + r] * sums[i * kBlock + j];
      }
    }
  }
}

// tile := triangle^-T tile.
void solve_tile(const float* triangle, float* tile) {
  for (int64_t i = 0; i < kBlock; ++i) {
    float* row = tile + i * kBlock;
    for (int64_t m = 0; m < i; ++m) {
      const float factor = triangle[m * kBlock + i];
      for (int64_t j = 0; j < kBlock; ++j) row[j] -= factor * tile[m * kBlock + j];
    }
    const float inverse = 1.0f / triangle[i * kBlock + i];
    for (int64_t j = 0; j < kBlock; ++j) row[j] *= inverse;
  }
}

}  // namespace

void Device::add_moments(std::span<const float> rows, std::span<const float> weights,
                         InputMoments* sums) {
  const int64_t columns = sums->columns;
  const auto count = static_cast<int64_t>(weights.size());
  NIBBLE_CHECK(static_cast<int64_t>(rows.size()) == count * columns, "rows of moments", rows.size(),
               count * columns);
  for (const float weight : weights) sums->weight += static_cast<double>(weight);
  const std::vector<float> plain = in_panels(rows, columns, nullptr);
  const std::vector<float> weighted = in_panels(rows, columns, weights.data());
  const int64_t blocks = columns / kBlock;
  host_tasks(blocks, [&](int64_t task, int) {
    const int64_t b = blocks - 1 - task;  // the longest first
    for (int64_t a = 0; a <= b; ++a) {
      add_tile_products(weighted.data() + a * count * kBlock, plain.data() + b * count * kBlock,
                        count, sums->panels.data() + (b * columns + a * kBlock) * kBlock);
    }
  });
}

namespace {

// H in place order, all tiles, with its diagonal raised.
std::vector<float> ordered(const InputMoments& mean, const std::vector<int32_t>& order, float added,
                           Device& device) {
  std::vector<float> out(mean.panels.size());
  device.host_tasks(mean.columns / kBlock, [&](int64_t b, int) {
    float* panel = out.data() + b * mean.columns * kBlock;
    for (int64_t k = 0; k < mean.columns; ++k) {
      for (int64_t j = 0; j < kBlock; ++j) {
        const int64_t place = b * kBlock + j;
        const float value =
            mean.at(order[static_cast<size_t>(k)], order[static_cast<size_t>(place)]);
        panel[k * kBlock + j] = k == place ? value + added : value;
      }
    }
  });
  return out;
}

}  // namespace

FactoredMoments Device::factor_moments(const InputMoments& mean, double damping) {
  FactoredMoments out;
  out.columns = mean.columns;
  out.order = rounding_order(mean);
  double trace = 0;
  for (int64_t k = 0; k < mean.columns; ++k) trace += static_cast<double>(mean.at(k, k));
  const double added = damping * trace / static_cast<double>(mean.columns);
  NIBBLE_CHECK(added > 0 && std::isfinite(added), "moments that can be factored", added);
  out.moments = ordered(mean, out.order, static_cast<float>(added), *this);
  const int64_t columns = mean.columns;
  const int64_t blocks = columns / kBlock;
  const int64_t panel = columns * kBlock;
  std::vector<float> upper = out.moments;  // becomes R, in panels
  std::vector<float> negated(static_cast<size_t>(panel));
  out.triangles.resize(static_cast<size_t>(blocks * kTile));
  out.own_triangles.resize(static_cast<size_t>(blocks * kTile));
  for (int64_t b = 0; b < blocks; ++b) {
    float* own = out.own_triangles.data() + b * kTile;
    std::copy_n(out.moments.data() + b * panel + b * kTile, kTile, own);
    factor_tile(own, added);
    const int64_t above = b * kBlock;
    std::transform(upper.data() + b * panel, upper.data() + b * panel + above * kBlock,
                   negated.data(), [](float value) { return -value; });
    float* triangle = out.triangles.data() + b * kTile;
    host_tasks(blocks - b, [&](int64_t task, int) {
      const int64_t p = b + task;
      float* tile = upper.data() + p * panel + b * kTile;
      add_tile_products(negated.data(), upper.data() + p * panel, above, tile);
    });
    factor_tile(upper.data() + b * panel + b * kTile, added);
    std::copy_n(upper.data() + b * panel + b * kTile, kTile, triangle);
    host_tasks(blocks - b - 1, [&](int64_t task, int) {
      solve_tile(triangle, upper.data() + (b + 1 + task) * panel + b * kTile);
    });
  }
  out.factor.resize(upper.size());
  host_tasks(blocks, [&](int64_t b, int) {
    for (int64_t k = b * kBlock; k < columns; ++k) {
      for (int64_t j = 0; j < kBlock; ++j) {
        out.factor[static_cast<size_t>(b * panel + k * kBlock + j)] =
            upper[static_cast<size_t>(k / kBlock * panel + (b * kBlock + j) * kBlock + k % kBlock)];
      }
    }
  });
  return out;
}

}  // namespace nibble::device
