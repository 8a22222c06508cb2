// Matrix products in double; see linear.h.
#include "kernels/reference/linear.h"

#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/nvfp4.h"

#include <cmath>

namespace nibble::reference {
namespace {

void decode_nvfp4_row_real(const formats::LinearWeight& weight, int64_t row, double* out) {
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

void decode_fp8_row_real(const formats::LinearWeight& weight, int64_t row, double* out) {
  const int64_t k = weight.in_features;
  const uint8_t* codes = weight.weight.as<const uint8_t>() + row * k;
  for (int64_t i = 0; i < k; ++i) {
    out[i] = double{formats::e4m3_to_f32(codes[i])} * double{weight.weight_scale_2};
  }
}

}  // namespace

Matrix decode_matrix(const formats::LinearWeight& weight, Decoding decoding) {
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

std::vector<Sum> linear(const std::vector<double>& x, int64_t m, const Matrix& matrix) {
  std::vector<Sum> y(static_cast<size_t>(m * matrix.n));
  for (int64_t row = 0; row < m; ++row) {
    for (int64_t column = 0; column < matrix.n; ++column) {
      const double* a = x.data() + row * matrix.k;
      const double* b = matrix.values.data() + column * matrix.k;
      Sum sum;
      for (int64_t i = 0; i < matrix.k; ++i) {
        sum.value += a[i] * b[i];
        sum.magnitude += std::fabs(a[i] * b[i]);
      }
      y[static_cast<size_t>(row * matrix.n + column)] = sum;
    }
  }
  return y;
}

}  // namespace nibble::reference
