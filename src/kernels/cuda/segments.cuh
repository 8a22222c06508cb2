// Rows of a Segments list (decode.h), inner size kHidden.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/decode.h"

namespace nibble::cuda {

struct RowPlace {
  const uint8_t* data;
  int bytes;
  float scale;
};

__device__ __forceinline__ RowPlace find_row(const Segments& segments, int row) {
  int begin = 0;
#pragma unroll
  for (int i = 0; i < Segments::kMax; ++i) {
    if (i < segments.count && row < segments.end[i]) {
      const int bytes = segments.format[i] == Format::bf16 ? 2 * kHidden : kHidden;
      return {static_cast<const uint8_t*>(segments.data[i]) + size_t(row - begin) * bytes, bytes,
              segments.scale[i]};
    }
    begin = segments.end[i];
  }
  return {nullptr, 0, 0.0f};
}

}  // namespace nibble::cuda
