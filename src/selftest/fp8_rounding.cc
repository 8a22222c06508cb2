#include "selftest/fp8_rounding.h"

#include "formats/e4m3.h"
#include "kernels/reference/decode_matrix.h"

#include <algorithm>
#include <cmath>

namespace nibble::selftest {
namespace {

using formats::WeightFormat;

float round_e4m3(float x) {
  return formats::e4m3_to_f32(formats::e4m3_from_f32_saturating(x));
}

}  // namespace

float largest_magnitude(const float* x, int64_t count) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(x[i]));
  return largest;
}

float row_scale(const float* row, int64_t k, double top) {
  const float largest = largest_magnitude(row, k);
  if (largest == 0.0f) return 1.0f;
  int exponent = 0;
  const double mantissa = std::frexp(double{largest} / top, &exponent);  // in [0.5, 1)
  return static_cast<float>(std::ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent));
}

std::vector<float> round_fp8_rows(std::vector<float> x, int64_t k) {
  for (size_t first = 0; first < x.size(); first += static_cast<size_t>(k)) {
    const float scale = row_scale(x.data() + first, k, kFp8Largest);
    for (size_t i = first; i < first + static_cast<size_t>(k); ++i) {
      x[i] = round_e4m3(x[i] / scale) * scale;
    }
  }
  return x;
}

reference::Matrix fp8_matrix(const OwnedWeight& weight) {
  formats::LinearWeight view = weight.view;
  const float tensor_scale = view.weight_scale_2;
  view.weight_scale_2 = 1.0f;  // codes times block scales are exact in f32
  reference::Matrix out = reference::decode_matrix(view, reference::Decoding::real);
  if (view.format == WeightFormat::bf16) {
    const std::vector<float> rounded =
        round_fp8_rows(std::vector<float>(out.values.begin(), out.values.end()), out.k);
    out.values.assign(rounded.begin(), rounded.end());
  } else if (view.format == WeightFormat::nvfp4) {
    for (double& value : out.values) value = round_e4m3(static_cast<float>(value / 8)) * 8.0;
  }
  for (double& value : out.values) value *= double{tensor_scale};
  return out;
}

}  // namespace nibble::selftest
