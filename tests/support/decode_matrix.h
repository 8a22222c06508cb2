// A stored weight as the numbers it stands for, for comparison with kernels/reference.
#pragma once

#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/linear_weight.h"
#include "formats/nvfp4.h"
#include "kernels/reference/linear.h"

#include <cstdint>
#include <vector>

namespace nibble::reference {

/// How a quantized weight becomes a number: its real value (code * scales, no rounding), or the f32
/// value of formats::decode_row_f32.
enum class Decoding { real, f32 };

inline void decode_nvfp4_row_real(const formats::LinearWeight& weight, int64_t row, double* out) {
  const int64_t k = weight.in_features;
  const uint8_t* codes = weight.weight.as<const uint8_t>() + row * formats::nvfp4_code_bytes(k);
  const uint8_t* scales =
      weight.weight_scale.as<const uint8_t>() + row * formats::nvfp4_scale_bytes(k);
  for (int64_t i = 0; i < k; ++i) {
    const auto scale = static_cast<uint8_t>(scales[i / formats::kNvfp4Block] & 0x7F);
    out[i] = double{formats::e2m1_to_f32(formats::nvfp4_code(codes, i))} *
             double{formats::e4m3_to_f32(scale)} * double{weight.weight_scale_2};
  }
}

inline void decode_fp8_row_real(const formats::LinearWeight& weight, int64_t row, double* out) {
  const int64_t k = weight.in_features;
  const uint8_t* codes = weight.weight.as<const uint8_t>() + row * k;
  for (int64_t i = 0; i < k; ++i) {
    out[i] = double{formats::e4m3_to_f32(codes[i])} * double{weight.weight_scale_2};
  }
}

/// The numbers of a stored weight.
inline Matrix decode_matrix(const formats::LinearWeight& weight, Decoding decoding) {
  Matrix matrix;
  matrix.n = weight.out_features;
  matrix.k = weight.in_features;
  matrix.values.resize(static_cast<size_t>(matrix.n * matrix.k));
  std::vector<float> row_f32(static_cast<size_t>(matrix.k));
  for (int64_t row = 0; row < matrix.n; ++row) {
    double* out = matrix.values.data() + row * matrix.k;
    if (decoding == Decoding::real && weight.format == formats::WeightFormat::nvfp4) {
      decode_nvfp4_row_real(weight, row, out);
    } else if (decoding == Decoding::real && weight.format == formats::WeightFormat::fp8) {
      decode_fp8_row_real(weight, row, out);
    } else {
      formats::decode_row_f32(weight, row, row_f32.data());
      for (int64_t i = 0; i < matrix.k; ++i) out[i] = row_f32[static_cast<size_t>(i)];
    }
  }
  return matrix;
}

}  // namespace nibble::reference
