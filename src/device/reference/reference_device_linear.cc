// The reference device's matrix products: packing, dense layers, experts.
#include "device/reference/elements.h"
#include "device/reference/reference_device_impl.h"
#include "kernels/reference/decode_matrix.h"
#include "kernels/reference/elementwise.h"

#include <cstring>
#include <vector>

namespace nibble::device {
namespace {

using formats::LinearWeight;

size_t code_bytes(WeightFormat format, size_t elements) {
  switch (format) {
    case WeightFormat::f32:
      return 4 * elements;
    case WeightFormat::bf16:
      return 2 * elements;
    case WeightFormat::fp8:
      return elements;
    case WeightFormat::nvfp4:
      return elements / 2;
  }
  return 0;
}

void pack(const LinearWeight& weight, std::byte* codes, std::byte* scales) {
  std::memcpy(codes, weight.weight.data(), weight.weight.bytes());
  if (weight.format == WeightFormat::nvfp4) {
    std::memcpy(scales, weight.weight_scale.data(), weight.weight_scale.bytes());
  }
}

/// The matrix behind packed bytes.
LinearWeight stored(WeightFormat format, int64_t n, int64_t k, const std::byte* data, float scale) {
  LinearWeight out;
  out.format = format;
  out.out_features = n;
  out.in_features = k;
  out.weight_scale_2 = scale;
  const std::byte* scales = data + code_bytes(format, static_cast<size_t>(n * k));
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::bf16:
      out.weight = {data, format == WeightFormat::f32 ? DType::f32 : DType::bf16, Shape{n, k}};
      break;
    case WeightFormat::fp8:
      out.weight = {data, DType::f8_e4m3, Shape{n, k}};
      break;
    case WeightFormat::nvfp4:
      out.weight = {data, DType::u8, Shape{n, k / 2}};
      out.weight_scale = {scales, DType::f8_e4m3, Shape{n, k / 16}};
  }
  return out;
}

std::vector<double> decoded_row(const LinearWeight& matrix, int64_t row) {
  std::vector<double> out(static_cast<size_t>(matrix.in_features));
  reference::decode_row(matrix, row, reference::Decoding::real, out.data());
  return out;
}

/// All elements of x, row after row.
std::vector<double> elements(ConstTensorView x) {
  std::vector<double> out(static_cast<size_t>(x.shape().elements()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = element(x, static_cast<int64_t>(i));
  return out;
}

/// Row `row` of x, which has rows as long as `weights`, times weights. Eight sums side by side:
/// in double their order does not matter, and the compiler can use vectors.
double dot(const std::vector<double>& x, int64_t row, const std::vector<double>& weights) {
  const size_t k = weights.size();
  const double* from = x.data() + static_cast<size_t>(row) * k;
  double sums[8] = {};
  size_t i = 0;
  for (; i + 8 <= k; i += 8) {
    for (size_t j = 0; j < 8; ++j) sums[j] += from[i + j] * weights[i + j];
  }
  double sum = 0;
  for (; i < k; ++i) sum += from[i] * weights[i];
  for (const double part : sums) sum += part;
  return sum;
}

/// (slot, expert) pairs by expert: a decoded row serves all slots of its expert.
std::vector<std::vector<int64_t>> slots_by_expert(const PackedExperts& bank,
                                                  ConstTensorView experts, int64_t slots) {
  std::vector<std::vector<int64_t>> out(static_cast<size_t>(bank.num_experts));
  for (int64_t slot = 0; slot < slots; ++slot) {
    const auto expert = experts.empty() ? 0 : experts.as<int32_t>()[slot];
    out[static_cast<size_t>(expert)].push_back(slot);
  }
  return out;
}

}  // namespace

size_t ReferenceDevice::packed_linear_bytes(WeightFormat format, int64_t out_features,
                                            int64_t in_features) const {
  const auto count = static_cast<size_t>(out_features * in_features);
  return code_bytes(format, count) + (format == WeightFormat::nvfp4 ? count / 16 : 0);
}

PackedLinear ReferenceDevice::pack_linear(const LinearWeight& weight, std::byte* destination) {
  pack(weight, destination, destination + weight.weight.bytes());
  return {weight.format, weight.out_features, weight.in_features, destination,
          weight.weight_scale_2};
}

size_t ReferenceDevice::packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                                             int64_t in_features) const {
  return packed_linear_bytes(format, 2 * intermediate, in_features);
}

void ReferenceDevice::pack_gate_up(const LinearWeight& gate, const LinearWeight& up,
                                   std::byte* destination) {
  pack_linear(gate, destination);
  pack_linear(up,
              destination + packed_linear_bytes(gate.format, gate.out_features, gate.in_features));
}

void ReferenceDevice::linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
                             Accumulate accumulate) {
  const LinearWeight matrix = stored(weight.format, weight.out_features, weight.in_features,
                                     weight.data, weight.tensor_scale);
  const std::vector<double> rows = elements(x);
  pool_.parallel_for(weight.out_features, [&](int64_t n, int) {
    const std::vector<double> row = decoded_row(matrix, n);
    for (int64_t r = 0; r < x.rows(); ++r) {
      const double sum = dot(rows, r, row);
      const int64_t at = r * weight.out_features + n;
      store(out, at, accumulate == Accumulate::add ? element(out, at) + sum : sum);
    }
  });
}

void ReferenceDevice::moe_gate_up(const StepPlan& /*plan*/, ConstTensorView x,
                                  const PackedExperts& gate_up, ConstTensorView experts,
                                  TensorView out) {
  const int64_t inner = gate_up.out_features / 2, k = gate_up.in_features;
  const int64_t per_row = experts.empty() ? 1 : experts.row_elements();
  const size_t half = packed_linear_bytes(gate_up.format, inner, k);
  const auto groups = slots_by_expert(gate_up, experts, x.rows() * per_row);
  const std::vector<double> rows = elements(x);
  pool_.parallel_for(gate_up.num_experts, [&](int64_t expert, int) {
    const std::byte* data =
        gate_up.data + static_cast<size_t>(expert) * gate_up.expert_stride_bytes;
    const float* scales = gate_up.tensor_scales + 2 * expert;
    const LinearWeight gate = stored(gate_up.format, inner, k, data, scales[0]);
    const LinearWeight up = stored(gate_up.format, inner, k, data + half, scales[1]);
    const auto& slots = groups[static_cast<size_t>(expert)];
    for (int64_t i = 0; i < inner && !slots.empty(); ++i) {
      const std::vector<double> gate_row = decoded_row(gate, i), up_row = decoded_row(up, i);
      for (const int64_t slot : slots) {
        const double sum = dot(rows, slot / per_row, gate_row);
        store(out, slot * inner + i, reference::silu(sum) * dot(rows, slot / per_row, up_row));
      }
    }
  });
}

void ReferenceDevice::moe_down_combine(const StepPlan& /*plan*/, ConstTensorView x,
                                       const PackedExperts& down, ConstTensorView experts,
                                       ConstTensorView expert_weights, TensorView out) {
  const int64_t per_row = experts.empty() ? 1 : experts.row_elements();
  const int64_t count = out.rows() * per_row, n = down.out_features;
  const auto groups = slots_by_expert(down, experts, count);
  const std::vector<double> rows = elements(x);
  std::vector<double> products(static_cast<size_t>(count * n));
  pool_.parallel_for(down.num_experts, [&](int64_t expert, int) {
    const LinearWeight matrix =
        stored(down.format, n, down.in_features,
               down.data + static_cast<size_t>(expert) * down.expert_stride_bytes,
               down.tensor_scales[expert]);
    const auto& slots = groups[static_cast<size_t>(expert)];
    for (int64_t i = 0; i < n && !slots.empty(); ++i) {
      const std::vector<double> row = decoded_row(matrix, i);
      for (const int64_t slot : slots) {
        products[static_cast<size_t>(slot * n + i)] = dot(rows, slot, row);
      }
    }
  });
  for (int64_t i = 0; i < out.rows() * n; ++i) {
    double sum = 0;
    for (int64_t slot = i / n * per_row; slot < (i / n + 1) * per_row; ++slot) {
      const double weight = experts.empty() ? 1.0 : expert_weights.as<float>()[slot];
      sum += weight * products[static_cast<size_t>(slot * n + i % n)];
    }
    store(out, i, sum);
  }
}

}  // namespace nibble::device
