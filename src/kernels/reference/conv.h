// Causal depthwise convolution with SiLU in double: the oracle of kernels/cpu/conv.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// out[t][c] = silu(sum_j weight[c][j] * x[t - kernel + 1 + j][c]) for t in [0, tokens). x points
/// at the first token's row; the kernel - 1 rows before it are its history.
void short_conv(const float* x, const float* weight, int64_t tokens, int64_t channels,
                int64_t kernel, double* out);

}  // namespace nibble::reference
