// NVFP4 block scale search over blocks of 16 weights: argument struct and the kernel table of each
// ISA level.
//
// The bytes are those of formats/nvfp4_search.h at every level: products and sums are separate, in
// one order, and lanes are candidates, never parts of a sum (spec nvfp4.md 4.2, 4.5).
#pragma once

#include <cstdint>

namespace nibble::cpu {

/// For each block the byte of 1..0x7E with the least loss, the lowest of equals; 0x38 for zeros.
struct ScaleSearchArgs {
  const float* weights;  // [blocks][16]
  int64_t blocks;
  const float*
      units;  // [128]: value of byte 1, 2, ... 0x7E times the tensor's scale; then repeated
  const float* moments;  // [blocks][16][16], symmetric; null, or trace not positive: squared error
  uint8_t* scales;  // [blocks]
};

/// Any number of threads on disjoint outputs.
struct ScaleSearchKernels {
  void (*best_scales)(const ScaleSearchArgs& args) noexcept;
};

namespace scalar {
extern const ScaleSearchKernels kScaleSearchKernels;
}
namespace avx2 {
extern const ScaleSearchKernels kScaleSearchKernels;
}
namespace avx512 {
extern const ScaleSearchKernels kScaleSearchKernels;
}

}  // namespace nibble::cpu
