#include "formats/nvfp4_encode.h"

#include "formats/e4m3.h"

#include <bit>
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

constexpr int32_t bits_of(float x) {
  return std::bit_cast<int32_t>(x);
}

// e2m1_from_f32 of 16 quotients, in integer comparisons without branches, which compilers
// vectorise: magnitudes order like their bits, NaN above all.
void encode_block(const float* x, float divisor, uint8_t* codes) {
  int32_t found[kBlock];
  for (size_t i = 0; i < kBlock; ++i) {
    const int32_t q = bits_of(x[i] / divisor);
    const int32_t a = q & 0x7FFFFFFF;
    const int32_t magnitude = (a > bits_of(0.25f)) + (a >= bits_of(0.75f)) + (a > bits_of(1.25f)) +
                              (a >= bits_of(1.75f)) + (a > bits_of(2.5f)) + (a >= bits_of(3.5f)) +
                              (a > bits_of(5.0f));
    const int32_t is_negative = (q < 0) & (a != 0) & (a <= bits_of(INFINITY));
    found[i] = magnitude | is_negative << 3;
  }
  for (size_t i = 0; i < kBlock; i += 2) {
    codes[i / 2] = static_cast<uint8_t>(found[i] | found[i + 1] << 4);
  }
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

// Magnitudes order like their bits, NaN above all: an integer maximum, which compilers vectorise.
float max_magnitude(std::span<const float> values) {
  int32_t largest = 0;
  for (const float value : values) {
    const int32_t magnitude = bits_of(value) & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  return std::bit_cast<float>(largest);
}

void encode_nvfp4_codes(std::span<const float> row, float tensor_scale, const uint8_t* block_scales,
                        uint8_t* codes) {
  for (size_t block = 0; block * kBlock < row.size(); ++block) {
    encode_block(row.data() + block * kBlock, e4m3_to_f32(block_scales[block]) * tensor_scale,
                 codes + block * kBlock / 2);
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
