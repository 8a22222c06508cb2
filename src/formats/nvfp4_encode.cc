#include "formats/nvfp4_encode.h"

#include "formats/e2m1.h"
#include "formats/e4m3.h"

#include <cmath>

namespace nibble::formats {
namespace {

constexpr size_t kBlock = 16;
constexpr float kSmallestScale = 0x1p-9f;
constexpr float kLargestScale = 448.0f;
constexpr uint8_t kNanScale = 0x7F;

// NaN passes through, as in torch.clamp.
float clamp(float x, float low, float high) {
  return x < low ? low : (x > high ? high : x);
}

// The sign of a NaN byte differs between machines and is never written (nvfp4.md 1.2).
uint8_t scale_byte(float scale) {
  return std::isnan(scale) ? kNanScale : e4m3_from_f32(scale);
}

}  // namespace

float divide_scalar(float x, float divisor, ScalarDivision division) {
  if (division == ScalarDivision::ieee) return x / divisor;
  const float reciprocal = 1.0f / divisor;
  return x * reciprocal;
}

float nvfp4_tensor_scale(float amax, ScalarDivision division) {
  return divide_scalar(amax, 6.0f * 448.0f, division);
}

float fp8_tensor_scale(float amax, ScalarDivision division) {
  return divide_scalar(amax, 448.0f, division);
}

float max_magnitude(std::span<const float> values) {
  float largest = 0.0f;
  for (const float value : values) {
    const float magnitude = std::fabs(value);
    if (std::isnan(magnitude)) return magnitude;
    if (magnitude > largest) largest = magnitude;
  }
  return largest;
}

void encode_nvfp4_codes(std::span<const float> row, float tensor_scale, const uint8_t* block_scales,
                        uint8_t* codes) {
  for (size_t block = 0; block * kBlock < row.size(); ++block) {
    const float divisor = e4m3_to_f32(block_scales[block]) * tensor_scale;
    for (size_t i = block * kBlock; i < (block + 1) * kBlock; i += 2) {
      const uint8_t low = e2m1_from_f32(row[i] / divisor);
      const uint8_t high = e2m1_from_f32(row[i + 1] / divisor);
      codes[i / 2] = static_cast<uint8_t>(low | (high << 4));
    }
  }
}

void encode_nvfp4_row(std::span<const float> row, float tensor_scale, const Nvfp4Rules& rules,
                      uint8_t* codes, uint8_t* block_scales) {
  const float unit = 6.0f * tensor_scale;
  for (size_t block = 0; block * kBlock < row.size(); ++block) {
    float ratio = max_magnitude(row.subspan(block * kBlock, kBlock)) / unit;
    if (ratio == 0.0f) ratio = 1.0f;
    if (rules.clamps_block_scales) ratio = clamp(ratio, kSmallestScale, kLargestScale);
    block_scales[block] = scale_byte(ratio);
  }
  encode_nvfp4_codes(row, tensor_scale, block_scales, codes);
}

uint8_t static_block_scale(float block_amax, float global_amax, float norm,
                           const Nvfp4Rules& rules) {
  float per_block = divide_scalar(block_amax, 6.0f, rules.division);
  if (per_block == 0.0f) per_block = 1.0f;
  const float global = divide_scalar(global_amax, 6.0f, rules.division);
  const float scale = per_block * norm / global;
  const float low = rules.clamps_block_scales ? kSmallestScale : 0.0f;
  return scale_byte(clamp(scale, low, kLargestScale));
}

}  // namespace nibble::formats
