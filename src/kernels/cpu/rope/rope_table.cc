// Rotary angle tables; see rope_table.h.
#include "kernels/cpu/rope/rope_table.h"

#include <cmath>

namespace nibble::cpu {

void rope_inverse_frequencies(double theta, int64_t rotary_dim, float* inverse) noexcept {
  for (int64_t j = 0; j < rotary_dim / 2; ++j) {
    // As the original model computes it: the power rounded to f32, then its reciprocal in f32.
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(rotary_dim);
    inverse[j] = 1.0f / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
}

void rope_table(const RopeTableArgs& args, int64_t first, int64_t last) noexcept {
  const int64_t pairs = args.rotary_dim / 2;
  for (int64_t row = first; row < last; ++row) {
    float* cosines = args.table + row * 2 * pairs;
    float* sines = cosines + pairs;
    for (int64_t j = 0; j < pairs; ++j) {
      int axis = 0;
      if (j % 3 == 1 && j < 3 * args.mrope_section[1]) axis = 1;
      if (j % 3 == 2 && j < 3 * args.mrope_section[2]) axis = 2;
      const float angle =
          static_cast<float>(args.positions[row * 3 + axis]) * args.inverse_frequencies[j];
      cosines[j] = std::cos(angle);
      sines[j] = std::sin(angle);
    }
  }
}

}  // namespace nibble::cpu
