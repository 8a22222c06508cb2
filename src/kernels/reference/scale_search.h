// The loss of one NVFP4 block under one scale byte, in double: the oracle of
// kernels/cpu/scale_search.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// A loss, and how far a computation in f32 may lie from it.
struct BlockLoss {
  double value = 0;
  double f32_bound = 0;
};

/// error^T H error of 16 weights, error = weight - code * e4m3(scale) * tensor_scale with the
/// nearest code. moments: H [16][16], or null for the identity.
BlockLoss block_loss(const float* weights, float tensor_scale, uint8_t scale, const float* moments);

/// The smallest loss over the scale bytes 0x01 .. 0x7E.
BlockLoss smallest_block_loss(const float* weights, float tensor_scale, const float* moments);

}  // namespace nibble::reference
