// Extents of a tensor, at most five (the vision patch embedding's weight has that many).
#pragma once

#include "base/check.h"

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

namespace nibble {

class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<int64_t> extents) {
    NIBBLE_CHECK(extents.size() <= kMaxRank, "rank above five", extents.size());
    for (const int64_t extent : extents) extents_[static_cast<size_t>(rank_++)] = extent;
  }

  int rank() const { return rank_; }
  int64_t operator[](int axis) const { return extents_[static_cast<size_t>(axis)]; }
  void append(int64_t extent) {
    NIBBLE_CHECK(rank_ < kMaxRank, "rank above five");
    extents_[static_cast<size_t>(rank_++)] = extent;
  }

  /// Number of elements, 1 for rank 0. Readers of files check for overflow before building a Shape.
  int64_t elements() const {
    int64_t count = 1;
    for (int axis = 0; axis < rank_; ++axis) count *= (*this)[axis];
    return count;
  }

  bool operator==(const Shape& other) const {
    return rank_ == other.rank_ && extents_ == other.extents_;
  }

 private:
  std::array<int64_t, kMaxRank> extents_{};
  int rank_ = 0;
};

/// "[512,128]".
std::string to_string(const Shape& shape);

}  // namespace nibble
