#include "quantize/matrix_writer.h"

#include "formats/linear_weight.h"
#include "formats/nvfp4_encode.h"
#include "formats/nvfp4_search.h"

#include <algorithm>

namespace nibble::quantize {
namespace {

using formats::LinearWeight;
using formats::ScaleMethod;

ConstTensorView bytes_view(const std::vector<uint8_t>& bytes, DType dtype, const Shape& shape) {
  return {reinterpret_cast<const std::byte*>(bytes.data()), dtype, shape};
}

LinearWeight stored_weight(formats::WeightFormat format, const Shape& shape) {
  LinearWeight stored;
  stored.format = format;
  stored.out_features = shape[0];
  stored.in_features = shape[1];
  return stored;
}

}  // namespace

std::string MatrixWriter::stem_of(const Matrix& matrix) const {
  return prefix_.stem(matrix.member, matrix.layer, std::max<int64_t>(matrix.expert, 0));
}

Result<void> MatrixWriter::write(const Matrix& matrix, const LayerStatistics& statistics) {
  return matrix.format == ModuleFormat::fp8 ? write_fp8(matrix) : write_nvfp4(matrix, statistics);
}

void MatrixWriter::search_and_encode(const Matrix& matrix, const formats::ScaleSearch& search,
                                     float tensor_scale) {
  device_.search_nvfp4_scales(matrix.weight, search, block_scales_.data());
  device_.encode_nvfp4(matrix.weight, tensor_scale, block_scales_.data(), codes_.data());
}

Result<void> MatrixWriter::encode_nvfp4(const Matrix& matrix, float amax, float tensor_scale,
                                        const LayerStatistics& statistics) {
  if (job_.scales == ScaleMethod::max) {
    device_.quantize_nvfp4(matrix.weight, tensor_scale, job_.compat.rules, codes_.data(),
                           block_scales_.data());
    return {};
  }
  if (job_.scales == ScaleMethod::gptq) {
    NIBBLE_ASSIGN_OR_RETURN(const device::FactoredMoments* moments,
                            whole_.of(statistics.inputs, matrix.member, matrix.expert));
    if (moments != nullptr) {
      device_.round_nvfp4(matrix.weight, tensor_scale, *moments, codes_.data(),
                          block_scales_.data());
    } else {
      search_and_encode(matrix, {ScaleMethod::mse, amax, job_.compat.rules, nullptr}, tensor_scale);
    }
    return {};
  }
  std::vector<float> moments;
  if (job_.scales == ScaleMethod::hessian) {
    moments = statistics.moments.mean(matrix.member, matrix.expert);
  }
  search_and_encode(
      matrix, {job_.scales, amax, job_.compat.rules, moments.empty() ? nullptr : moments.data()},
      tensor_scale);
  return {};
}

Result<void> MatrixWriter::write_nvfp4(const Matrix& matrix, const LayerStatistics& statistics) {
  const std::string stem = stem_of(matrix);
  const Shape& shape = matrix.weight.shape();
  codes_.resize(static_cast<size_t>(shape.elements()) / 2);
  block_scales_.resize(static_cast<size_t>(shape.elements()) / 16);
  // An all-zero matrix keeps usable scales, except where its ModelOpt's own are wanted (nvfp4.md
  // 1.5).
  const float amax = matrix.amax == 0 && is_ours() ? 1.0f : matrix.amax;
  const float tensor_scale =
      formats::tensor_scale_for(job_.scales, amax, job_.compat.rules.division);
  NIBBLE_RETURN_IF_ERROR(encode_nvfp4(matrix, amax, tensor_scale, statistics));
  LinearWeight stored = stored_weight(formats::WeightFormat::nvfp4, shape);
  stored.weight = bytes_view(codes_, DType::u8, Shape{shape[0], shape[1] / 2});
  stored.weight_scale = bytes_view(block_scales_, DType::f8_e4m3, Shape{shape[0], shape[1] / 16});
  stored.weight_scale_2 = tensor_scale;
  errors_.add(stem, device_.weight_error(matrix.weight, stored));
  NIBBLE_RETURN_IF_ERROR(sink_.append(stem + ".weight", std::as_bytes(std::span(codes_))));
  NIBBLE_RETURN_IF_ERROR(
      sink_.append(stem + ".weight_scale", std::as_bytes(std::span(block_scales_))));
  NIBBLE_RETURN_IF_ERROR(sink_.append(stem + ".weight_scale_2", tensor_scale));
  return write_input_scale(matrix);
}

Result<void> MatrixWriter::write_fp8(const Matrix& matrix) {
  const std::string stem = stem_of(matrix);
  const Shape& shape = matrix.weight.shape();
  codes_.resize(static_cast<size_t>(shape.elements()));
  const auto division = job_.compat.rules.division;
  const float amax = matrix.amax == 0 && is_ours() ? 1.0f : matrix.amax;
  const float scale = formats::fp8_tensor_scale(amax, division);
  device_.quantize_fp8(matrix.weight, scale, division, codes_.data());
  LinearWeight stored = stored_weight(formats::WeightFormat::fp8, shape);
  stored.weight = bytes_view(codes_, DType::f8_e4m3, shape);
  stored.weight_scale_2 = scale;
  errors_.add(stem, device_.weight_error(matrix.weight, stored));
  NIBBLE_RETURN_IF_ERROR(sink_.append(stem + ".weight", std::as_bytes(std::span(codes_))));
  NIBBLE_RETURN_IF_ERROR(sink_.append(stem + ".weight_scale", scale));
  return write_input_scale(matrix);
}

Result<void> MatrixWriter::write_input_scale(const Matrix& matrix) {
  if (!has_input_scale(matrix.format)) return {};
  return sink_.append(stem_of(matrix) + ".input_scale",
                      scales_.input_scale(matrix.member, matrix.layer));
}

}  // namespace nibble::quantize
