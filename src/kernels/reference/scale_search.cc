#include "kernels/reference/scale_search.h"

#include "formats/e2m1.h"
#include "formats/e4m3.h"

#include <cmath>

namespace nibble::reference {
namespace {

constexpr int kBlock = 16;
constexpr double kUlp = 0x1p-24;

}  // namespace

BlockLoss block_loss(const float* weights, float tensor_scale, uint8_t scale,
                     const float* moments) {
  const float divisor = formats::e4m3_to_f32(scale) * tensor_scale;
  double error[kBlock], slack[kBlock];  // slack: rounding of the scale, the product, the difference
  for (int i = 0; i < kBlock; ++i) {
    const double code = formats::e2m1_to_f32(formats::e2m1_from_f32(weights[i] / divisor));
    const double product = code * formats::e4m3_to_f32(scale) * static_cast<double>(tensor_scale);
    error[i] = weights[i] - product;
    slack[i] = 3 * kUlp * (std::abs(static_cast<double>(weights[i])) + std::abs(product));
  }
  BlockLoss out;
  for (int i = 0; i < kBlock; ++i) {
    for (int j = 0; j < kBlock; ++j) {
      const double h = moments != nullptr ? moments[i * kBlock + j] : (i == j ? 1.0 : 0.0);
      const double sum = (std::abs(error[i]) + slack[i]) * (std::abs(error[j]) + slack[j]);
      out.value += error[i] * h * error[j];
      // The errors' own rounding, then that of a sum of 256 products.
      out.f32_bound += std::abs(h) * (sum - std::abs(error[i] * error[j]));
      out.f32_bound += std::abs(h) * sum * (kBlock * kBlock + 3) * kUlp;
    }
  }
  return out;
}

BlockLoss smallest_block_loss(const float* weights, float tensor_scale, const float* moments) {
  BlockLoss best = block_loss(weights, tensor_scale, 1, moments);
  for (uint8_t scale = 2; scale <= 0x7E; ++scale) {
    const BlockLoss loss = block_loss(weights, tensor_scale, scale, moments);
    if (loss.value < best.value) best = loss;
  }
  return best;
}

}  // namespace nibble::reference
