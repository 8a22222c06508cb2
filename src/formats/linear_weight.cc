#include "formats/linear_weight.h"

#include "base/problems.h"
#include "formats/bf16.h"
#include "formats/fp8.h"
#include "formats/nvfp4.h"
#include "formats/safetensors_header.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <optional>

namespace nibble::formats {
namespace {

// How a dialect spells the tensors of a stem.
struct Spelling {
  const char* weight;
  const char* weight_scale_2;
  const char* input_scale;
  bool divides;  // the two scalars are reciprocals of ours
};
constexpr Spelling kModelOpt = {".weight", ".weight_scale_2", ".input_scale", false};
constexpr Spelling kPacked = {".weight_packed", ".weight_global_scale", ".input_global_scale",
                              true};

// The tensors of one stem, as far as they exist.
struct StemTensors {
  const TensorInfo* weight;
  const TensorInfo* weight_scale;
  const TensorInfo* weight_scale_2;
  const TensorInfo* input_scale;
  const Spelling& spelling;
};

StemTensors find_stem(const Checkpoint& checkpoint, std::string_view stem) {
  const std::string name(stem);
  const Spelling& spelling = is_packed_dialect(checkpoint, stem) ? kPacked : kModelOpt;
  return {checkpoint.find(name + spelling.weight), checkpoint.find(name + ".weight_scale"),
          checkpoint.find(name + spelling.weight_scale_2),
          checkpoint.find(name + spelling.input_scale), spelling};
}

std::string describe(const TensorInfo* tensor) {
  if (tensor == nullptr) return "missing";
  return fmt::format("{} {}", dtype_name(tensor->dtype), to_string(tensor->shape));
}

// Endings of other schemes beside a weight of ours: reading on would give wrong numbers.
std::optional<std::string> foreign_tensor(const Checkpoint& checkpoint, std::string_view stem) {
  for (const char* ending : {".pre_quant_scale", ".weight_scale_inv", ".weight_zero_point"}) {
    if (checkpoint.find(std::string(stem) + ending) != nullptr) return std::string(stem) + ending;
  }
  // One matrix in both dialects: which one is meant?
  if (!is_packed_dialect(checkpoint, stem)) return std::nullopt;
  for (const char* ending : {kModelOpt.weight, kModelOpt.weight_scale_2}) {
    if (checkpoint.find(std::string(stem) + ending) != nullptr) return std::string(stem) + ending;
  }
  return std::nullopt;
}

std::optional<WeightFormat> classify(const StemTensors& t) {
  const bool has_scales = t.weight_scale != nullptr || t.weight_scale_2 != nullptr;
  switch (t.weight->dtype) {
    case DType::f32:
      return has_scales ? std::nullopt : std::optional(WeightFormat::f32);
    case DType::bf16:
      return has_scales ? std::nullopt : std::optional(WeightFormat::bf16);
    case DType::f8_e4m3:
      if (t.weight_scale == nullptr || t.weight_scale_2 != nullptr) return std::nullopt;
      return t.weight_scale->shape.elements() == 1 ? std::optional(WeightFormat::fp8)
                                                   : std::nullopt;
    case DType::u8:
      if (t.weight_scale == nullptr || t.weight_scale_2 == nullptr) return std::nullopt;
      return WeightFormat::nvfp4;
    default:
      return std::nullopt;
  }
}

// Reads an F32 tensor of one element, which multiplies or `divides`; it must be finite and
// positive.
float read_scale(const Checkpoint& checkpoint, const TensorInfo& tensor, bool divides,
                 Problems& problems) {
  if (tensor.dtype != DType::f32 || tensor.shape.elements() != 1) {
    problems.add(fmt::format("{}: {}, expected F32 []", tensor.name, describe(&tensor)));
    return 1.0f;
  }
  float value = 0.0f;
  std::memcpy(&value, checkpoint.view(tensor.name).data(), sizeof value);
  const float factor = divides ? 1.0f / value : value;
  if (!std::isfinite(value) || value <= 0.0f || !std::isfinite(factor) || factor <= 0.0f) {
    problems.add(fmt::format("{}: {}, expected a finite number above 0", tensor.name, value));
  }
  return factor;
}

void check_block_scales(const Checkpoint& checkpoint, const StemTensors& t, LinearWeight& weight,
                        Problems& problems) {
  const Shape expected{weight.out_features, weight.in_features / kNvfp4Block};
  if (weight.in_features % kNvfp4Block != 0) {
    problems.add(fmt::format("{}: {}, expected a multiple of 8 bytes in a row", t.weight->name,
                             describe(t.weight)));
  }
  if (t.weight_scale->dtype != DType::f8_e4m3 || !(t.weight_scale->shape == expected)) {
    problems.add(fmt::format("{}: {}, expected F8_E4M3 {} ({} input features / 16)",
                             t.weight_scale->name, describe(t.weight_scale), to_string(expected),
                             weight.in_features));
    return;
  }
  weight.weight_scale = checkpoint.view(t.weight_scale->name);
}

void scan_values(const LinearWeight& weight, const StemTensors& t, Problems& problems) {
  // NaN has the same two bytes whether a byte is a block scale or an FP8 element.
  const auto has_nan = [](ConstTensorView view) {
    return nvfp4_scales_have_nan(reinterpret_cast<const uint8_t*>(view.data()),
                                 static_cast<int64_t>(view.bytes()));
  };
  if (weight.format == WeightFormat::nvfp4 && !weight.weight_scale.empty() &&
      has_nan(weight.weight_scale)) {
    problems.add(fmt::format("{}: holds NaN block scales", t.weight_scale->name));
  }
  if (weight.format == WeightFormat::fp8 && has_nan(weight.weight)) {
    problems.add(fmt::format("{}: holds NaN elements", t.weight->name));
  }
}

Result<WeightFormat> format_of(const Checkpoint& checkpoint, std::string_view stem,
                               const StemTensors& t) {
  const std::string name(stem);
  if (t.weight == nullptr) {
    return Error{ErrorCode::not_found, name + ".weight: missing from " + checkpoint.path()};
  }
  if (const auto foreign = foreign_tensor(checkpoint, stem)) {
    return Error{ErrorCode::unsupported, *foreign + ": this quantization scheme is not supported"};
  }
  const auto format = classify(t);
  if (!format) {
    return Error{
        ErrorCode::unsupported,
        fmt::format("{}: {} {}, weight_scale {}, {} {} are neither BF16, F32, FP8 per "
                    "tensor nor NVFP4",
                    name, t.spelling.weight + 1, describe(t.weight), describe(t.weight_scale),
                    t.spelling.weight_scale_2 + 1, describe(t.weight_scale_2))};
  }
  if (t.weight->shape.rank() != 2 || t.weight->shape.elements() == 0) {
    return Error{ErrorCode::corrupt,
                 fmt::format("{}: shape {}, expected [out_features, in_features]", t.weight->name,
                             to_string(t.weight->shape))};
  }
  return *format;
}

}  // namespace

const char* weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
      return "F32";
    case WeightFormat::bf16:
      return "BF16";
    case WeightFormat::fp8:
      return "FP8";
    case WeightFormat::nvfp4:
      return "NVFP4";
  }
  return "?";
}

size_t LinearWeight::bytes() const {
  return weight.bytes() + (weight_scale.empty() ? 0 : weight_scale.bytes());
}

bool is_packed_dialect(const Checkpoint& checkpoint, std::string_view stem) {
  return checkpoint.find(std::string(stem) + kPacked.weight) != nullptr;
}

Result<WeightFormat> stored_weight_format(const Checkpoint& checkpoint, std::string_view stem) {
  return format_of(checkpoint, stem, find_stem(checkpoint, stem));
}

Result<LinearWeight> load_linear_weight(const Checkpoint& checkpoint, std::string_view stem,
                                        ValueCheck check) {
  const StemTensors t = find_stem(checkpoint, stem);
  NIBBLE_ASSIGN_OR_RETURN(const WeightFormat format, format_of(checkpoint, stem, t));
  Problems problems;
  LinearWeight weight;
  weight.format = format;
  weight.weight = checkpoint.view(t.weight->name);
  weight.out_features = t.weight->shape[0];
  weight.in_features = t.weight->shape[1] * (format == WeightFormat::nvfp4 ? 2 : 1);
  if (format == WeightFormat::nvfp4) {
    check_block_scales(checkpoint, t, weight, problems);
    weight.weight_scale_2 = read_scale(checkpoint, *t.weight_scale_2, t.spelling.divides, problems);
  }
  if (format == WeightFormat::fp8) {
    weight.weight_scale_2 = read_scale(checkpoint, *t.weight_scale, false, problems);
  }
  if (t.input_scale != nullptr) {
    weight.input_scale = read_scale(checkpoint, *t.input_scale, t.spelling.divides, problems);
  }
  if (check == ValueCheck::scan) scan_values(weight, t, problems);
  if (!problems.empty()) {
    return problems.error(ErrorCode::corrupt, checkpoint.shard_path(t.weight->name));
  }
  return weight;
}

LinearWeight plain_linear_weight(ConstTensorView matrix) {
  NIBBLE_CHECK(matrix.shape().rank() == 2, "a matrix is needed", to_string(matrix.shape()));
  NIBBLE_CHECK(matrix.dtype() == DType::bf16 || matrix.dtype() == DType::f32,
               "a BF16 or F32 matrix is needed", dtype_name(matrix.dtype()));
  LinearWeight weight;
  weight.format = matrix.dtype() == DType::f32 ? WeightFormat::f32 : WeightFormat::bf16;
  weight.out_features = matrix.shape()[0];
  weight.in_features = matrix.shape()[1];
  weight.weight = matrix;
  return weight;
}

FusedExpert fused_expert(ConstTensorView gate_up_proj, ConstTensorView down_proj, int64_t index) {
  const Shape& gate_up = gate_up_proj.shape();
  const Shape& down = down_proj.shape();
  const bool fits = gate_up.rank() == 3 && down.rank() == 3 && gate_up[0] == down[0] &&
                    gate_up[1] == 2 * down[2] && gate_up[2] == down[1];
  NIBBLE_CHECK(fits, "fused banks do not fit each other", to_string(gate_up), to_string(down));
  const int64_t inner = down[2];
  const int64_t hidden = down[1];
  const ConstTensorView both = gate_up_proj.slice_rows(index, 1).reshaped(Shape{2 * inner, hidden});
  return {plain_linear_weight(both.slice_rows(0, inner)),
          plain_linear_weight(both.slice_rows(inner, inner)),
          plain_linear_weight(down_proj.slice_rows(index, 1).reshaped(Shape{hidden, inner}))};
}

void decode_row_f32(const LinearWeight& weight, int64_t row, float* out) {
  NIBBLE_CHECK(row >= 0 && row < weight.out_features, "row of a matrix", row, weight.out_features);
  const int64_t k = weight.in_features;
  switch (weight.format) {
    case WeightFormat::f32:
      std::memcpy(out, weight.weight.as<float>() + row * k, static_cast<size_t>(k) * sizeof(float));
      return;
    case WeightFormat::bf16: {
      const uint16_t* in = weight.weight.as<uint16_t>() + row * k;
      for (int64_t i = 0; i < k; ++i) out[i] = bf16_to_f32(in[i]);
      return;
    }
    case WeightFormat::fp8:
      fp8_decode_row(weight.weight.as<uint8_t>() + row * k, weight.weight_scale_2, k, out);
      return;
    case WeightFormat::nvfp4:
      nvfp4_decode_row(weight.weight.as<uint8_t>() + row * nvfp4_code_bytes(k),
                       weight.weight_scale.as<uint8_t>() + row * nvfp4_scale_bytes(k),
                       weight.weight_scale_2, k, out);
      return;
  }
}

}  // namespace nibble::formats
