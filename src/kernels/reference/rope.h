// Rotary angles and the norm-and-rotate of one head in double: the oracle of kernels/cpu/rope.
#pragma once

#include <cstdint>

namespace nibble::reference {

/// Cosines and sines of rotary_dim / 2 pairs at position (T, H, W). The angle itself is an f32
/// product of f32 factors: that is part of the model's definition (qwen3_5_moe.md 3.4).
void rope_angles(const int32_t* position, double theta, int64_t rotary_dim,
                 const int32_t* mrope_section, double* cosines, double* sines);

/// out = rotate(rms_norm(x, 1 + weight)), n dimensions, the first 2 * pairs of them turned.
void norm_rotate(const float* x, const float* weight, const double* cosines, const double* sines,
                 int64_t n, int64_t pairs, double eps, double* out);

}  // namespace nibble::reference
