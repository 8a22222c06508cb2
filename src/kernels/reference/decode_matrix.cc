#include "kernels/reference/decode_matrix.h"

#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/nvfp4.h"

#include <vector>

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

void decode_row(const formats::LinearWeight& weight, int64_t row, Decoding decoding, double* out) {
  if (decoding == Decoding::real && weight.format == formats::WeightFormat::nvfp4) {
    decode_nvfp4_row_real(weight, row, out);
  } else if (decoding == Decoding::real && weight.format == formats::WeightFormat::fp8) {
    decode_fp8_row_real(weight, row, out);
  } else {
    std::vector<float> values(static_cast<size_t>(weight.in_features));
    formats::decode_row_f32(weight, row, values.data());
    for (size_t i = 0; i < values.size(); ++i) out[i] = values[i];
  }
}

Matrix decode_matrix(const formats::LinearWeight& weight, Decoding decoding) {
  Matrix matrix;
  matrix.n = weight.out_features;
  matrix.k = weight.in_features;
  matrix.values.resize(static_cast<size_t>(matrix.n * matrix.k));
  for (int64_t row = 0; row < matrix.n; ++row) {
    decode_row(weight, row, decoding, matrix.values.data() + row * matrix.k);
  }
  return matrix;
}

}  // namespace nibble::reference
