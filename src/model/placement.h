// Placement: which part of each sharded dimension this rank holds. One rank for now; the seam is
// here.
//
// The configuration always describes the whole model; local sizes come from here and nowhere else.
#pragma once

#include "base/check.h"

#include <cstdint>

namespace nibble::model {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

struct Placement {
  int rank = 0;
  int size = 1;

  /// This rank's part of `total` heads, experts or vocabulary rows; total must divide evenly.
  Range range(int64_t total) const {
    NIBBLE_CHECK(total % size == 0, "uneven placement", total, size);
    const int64_t part = total / size;
    return {rank * part, (rank + 1) * part};
  }
};

}  // namespace nibble::model
