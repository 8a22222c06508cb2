// Interleaved multimodal rotary embedding, rotate-half pairing.
#include "kernels/reference/rope.h"

#include "kernels/reference/norm.h"

#include <cmath>

namespace nibble::reference {

void rope_angles(const int32_t* position, double theta, int64_t rotary_dim,
                 const int32_t* mrope_section, double* cosines, double* sines) {
  for (int64_t j = 0; j < rotary_dim / 2; ++j) {
    const bool height = j % 3 == 1 && j < 3 * mrope_section[1];
    const bool width = j % 3 == 2 && j < 3 * mrope_section[2];
    const auto p = static_cast<float>(position[height ? 1 : width ? 2 : 0]);
    const double power =
        std::pow(theta, static_cast<double>(2 * j) / static_cast<double>(rotary_dim));
    const float angle = p * (1.0f / static_cast<float>(power));
    cosines[j] = std::cos(static_cast<double>(angle));
    sines[j] = std::sin(static_cast<double>(angle));
  }
}

void norm_rotate(const float* x, const float* weight, const double* cosines, const double* sines,
                 int64_t n, int64_t pairs, double eps, double* out) {
  rms_norm(x, weight, n, eps, out);
  for (int64_t j = 0; j < pairs; ++j) {
    const double a = out[j], b = out[j + pairs];
    out[j] = a * cosines[j] - b * sines[j];
    out[j + pairs] = b * cosines[j] + a * sines[j];
  }
}

}  // namespace nibble::reference
