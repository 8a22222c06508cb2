// Rounding of whole matrices to NVFP4 with error feedback (spec nvfp4.md 4.7): 16 rows at a time, a
// lane each.
//
// First a pass over the blocks of columns from the last place to the first: a block's weights take
// in what the error of all blocks before it asks for, its scale is searched and it is rounded. Then
// sweeps over the blocks again, each now with all others known; a block changes only where that
// makes the error smaller.
#include "base/check.h"
#include "device/device.h"
#include "formats/bf16.h"
#include "formats/e2m1.h"
#include "formats/nvfp4_feedback.h"
#include "formats/nvfp4_search.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace nibble::device {
namespace {

constexpr int64_t kBlock = 16;
constexpr int64_t kLanes = 16;
constexpr int64_t kTile = kBlock * kBlock;
constexpr int kSweeps = 2;
// A sweep changes a block when its part of the loss falls by more than f32 can be wrong about it.
constexpr float kSmallerBy = 0.9999f;
constexpr uint8_t kOne = 0x38;  // scale of a block of zeros

using Tile = std::array<float, static_cast<size_t>(kTile)>;  // [column of the block][lane]

// x := triangle^-1 x.
void solve_upper(const float* triangle, Tile& x) {
  for (int64_t i = kBlock - 1; i >= 0; --i) {
    float* row = x.data() + i * kLanes;
    for (int64_t j = i + 1; j < kBlock; ++j) {
      const float factor = triangle[i * kBlock + j];
      for (int64_t l = 0; l < kLanes; ++l)
        row[l] -= factor * x[static_cast<size_t>(j * kLanes + l)];
    }
    const float inverse = 1.0f / triangle[i * kBlock + i];
    for (int64_t l = 0; l < kLanes; ++l) row[l] *= inverse;
  }
}

// x := triangle^-T x; returns the squared length of each lane.
std::array<float, kLanes> solve_lower(const float* triangle, Tile& x) {
  std::array<float, kLanes> lengths{};
  for (int64_t i = 0; i < kBlock; ++i) {
    float* row = x.data() + i * kLanes;
    for (int64_t j = 0; j < i; ++j) {
      const float factor = triangle[j * kBlock + i];
      for (int64_t l = 0; l < kLanes; ++l)
        row[l] -= factor * x[static_cast<size_t>(j * kLanes + l)];
    }
    const float inverse = 1.0f / triangle[i * kBlock + i];
    for (int64_t l = 0; l < kLanes; ++l) {
      row[l] *= inverse;
      lengths[static_cast<size_t>(l)] += row[l] * row[l];
    }
  }
  return lengths;
}

struct Units {
  std::array<float, 128> values;
  std::array<float, 128> inverses;

  explicit Units(float tensor_scale) : values(formats::nvfp4_scale_units(tensor_scale)) {
    for (size_t i = 0; i < values.size(); ++i) inverses[i] = 1.0f / values[i];
  }
};

// Up to 16 rows of the matrix, in place order: [K][lane]. Lanes without a row hold zeros.
class RowGroup {
 public:
  RowGroup(const Device& device, const FactoredMoments& moments, const Units& units)
      : device_(device),
        moments_(moments),
        units_(units),
        columns_(moments.columns),
        weights_(static_cast<size_t>(columns_ * kLanes)),
        values_(weights_.size()),
        errors_(weights_.size()),
        scales_(static_cast<size_t>(columns_ / kBlock * kLanes)) {}

  void load(ConstTensorView matrix, int64_t first, int64_t rows) {
    rows_ = rows;
    std::fill(weights_.begin(), weights_.end(), 0.0f);
    for (int64_t l = 0; l < rows; ++l) {
      const std::byte* row = matrix.data() + (first + l) * columns_ * 2;
      for (int64_t k = 0; k < columns_; ++k) {
        const std::byte* bytes = row + 2 * moments_.order[static_cast<size_t>(k)];
        const auto low = static_cast<uint16_t>(bytes[0]);
        const auto high = static_cast<uint16_t>(bytes[1]);
        weights_[static_cast<size_t>(k * kLanes + l)] =
            formats::bf16_to_f32(static_cast<uint16_t>(low | (high << 8)));
      }
    }
  }

  void round() {
    for (int64_t b = columns_ / kBlock - 1; b >= 0; --b) round_first(b);
    for (int sweep = 0; sweep < kSweeps; ++sweep) {
      for (int64_t b = columns_ / kBlock - 1; b >= 0; --b) round_again(b);
    }
  }

  void store(int64_t first, uint8_t* codes, uint8_t* block_scales) const {
    for (int64_t l = 0; l < rows_; ++l) {
      uint8_t* row = codes + (first + l) * columns_ / 2;
      uint8_t* scales = block_scales + (first + l) * columns_ / kBlock;
      for (int64_t k = 0; k < columns_; ++k) {
        const int64_t column = moments_.order[static_cast<size_t>(k)];
        const uint8_t scale = scales_[static_cast<size_t>(k / kBlock * kLanes + l)];
        const float value = values_[static_cast<size_t>(k * kLanes + l)];
        const uint8_t code =
            formats::e2m1_from_f32(value / units_.values[static_cast<size_t>(scale - 1)]);
        uint8_t& byte = row[column / 2];
        byte = static_cast<uint8_t>(column % 2 == 0 ? (byte & 0xF0) | code
                                                    : (byte & 0x0F) | (code << 4));
        scales[column / kBlock] = scale;
      }
    }
  }

 private:
  void round_first(int64_t b) {
    const int64_t behind = (b + 1) * kBlock;
    Tile centers{};
    device_.add_tile_products(moments_.factor.data() + (b * columns_ + behind) * kBlock,
                              errors_.data() + behind * kLanes, columns_ - behind, centers.data());
    const float* triangle = moments_.triangles.data() + b * kTile;
    solve_upper(triangle, centers);
    for (size_t i = 0; i < centers.size(); ++i) {
      centers[i] += weights_[static_cast<size_t>(b * kTile) + i];
    }
    for (int64_t l = 0; l < rows_; ++l) {
      keep(b, l, rounded(centers, l, triangle));
    }
  }

  void round_again(int64_t b) {
    Tile centers{};
    device_.add_tile_products(moments_.moments.data() + b * columns_ * kBlock, errors_.data(),
                              columns_, centers.data());
    const float* triangle = moments_.own_triangles.data() + b * kTile;
    const auto losses = solve_lower(triangle, centers);
    solve_upper(triangle, centers);
    for (size_t i = 0; i < centers.size(); ++i) {
      centers[i] += values_[static_cast<size_t>(b * kTile) + i];
    }
    for (int64_t l = 0; l < rows_; ++l) {
      const formats::RoundedBlock found = rounded(centers, l, triangle);
      if (found.loss < kSmallerBy * losses[static_cast<size_t>(l)]) keep(b, l, found);
    }
  }

  // The chosen unit counts from byte 1.
  formats::RoundedBlock rounded(const Tile& tile, int64_t lane, const float* triangle) const {
    float centers[kBlock];
    float largest = 0;
    for (int64_t i = 0; i < kBlock; ++i) {
      centers[i] = tile[static_cast<size_t>(i * kLanes + lane)];
      largest = std::max(largest, std::fabs(centers[i]));
    }
    if (largest == 0) return {{}, 0, kOne - 1};
    const int first = formats::first_feedback_candidate(largest, units_.values.data());
    formats::RoundedBlock out = device_.round_block(
        {centers, triangle, units_.values.data() + first, units_.inverses.data() + first});
    out.chosen += first;
    return out;
  }

  void keep(int64_t b, int64_t lane, const formats::RoundedBlock& block) {
    scales_[static_cast<size_t>(b * kLanes + lane)] = static_cast<uint8_t>(block.chosen + 1);
    for (int64_t i = 0; i < kBlock; ++i) {
      const auto at = static_cast<size_t>((b * kBlock + i) * kLanes + lane);
      values_[at] = block.values[i];
      errors_[at] = weights_[at] - block.values[i];
    }
  }

  const Device& device_;
  const FactoredMoments& moments_;
  const Units& units_;
  int64_t columns_;
  int64_t rows_ = 0;
  std::vector<float> weights_, values_, errors_;  // [K][lane]
  std::vector<uint8_t> scales_;  // [K/16][lane]
};

}  // namespace

void Device::add_tile_products(const float* a, const float* b, int64_t count, float* sums) const {
  formats::add_tile_products(a, b, count, sums);
}

formats::RoundedBlock Device::round_block(const formats::BlockTarget& target) const {
  return formats::round_block_with_feedback(target);
}

void Device::round_nvfp4(ConstTensorView matrix, float tensor_scale, const FactoredMoments& moments,
                         uint8_t* codes, uint8_t* block_scales) {
  NIBBLE_CHECK(matrix.dtype() == DType::bf16 && matrix.row_elements() == moments.columns,
               "matrix to round", to_string(matrix.shape()), moments.columns);
  const Units units(tensor_scale);
  host_tasks((matrix.rows() + kLanes - 1) / kLanes, [&](int64_t task, int) {
    const int64_t first = task * kLanes;
    RowGroup group(*this, moments, units);
    group.load(matrix, first, std::min(kLanes, matrix.rows() - first));
    group.round();
    group.store(first, codes, block_scales);
  });
}

}  // namespace nibble::device
