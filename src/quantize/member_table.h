// MemberTable: one value per (layer, member) of a model, and per member outside the layers.
#pragma once

#include "base/check.h"
#include "model/tensor_rules.h"

#include <array>
#include <vector>

namespace nibble::quantize {

inline constexpr int kOutsideLayers = -1;

template <typename T>
class MemberTable {
 public:
  MemberTable() = default;
  explicit MemberTable(size_t layers) : rows_(layers + 1) {}

  /// layer: 0 to layers - 1, or kOutsideLayers.
  T& at(model::Member member, int layer) { return row(layer)[static_cast<size_t>(member)]; }
  const T& at(model::Member member, int layer) const {
    return row(layer)[static_cast<size_t>(member)];
  }

 private:
  static constexpr size_t kMembers = static_cast<size_t>(model::Member::k_norm) + 1;
  using Row = std::array<T, kMembers>;

  Row& row(int layer) { return rows_.at(static_cast<size_t>(layer + 1)); }
  const Row& row(int layer) const { return rows_.at(static_cast<size_t>(layer + 1)); }

  std::vector<Row> rows_;
};

}  // namespace nibble::quantize
