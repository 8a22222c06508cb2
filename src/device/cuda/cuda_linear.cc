// Packing of weights and dense products of the CUDA device.
#include "device/cuda/cuda_device_impl.h"

#include <algorithm>

namespace nibble::device {
namespace {

/// Stored bytes of an NVFP4 matrix packed at once: a lane's raw buffer holds two such slices.
constexpr int64_t kSliceBytes = int64_t{8} << 20;

int64_t upload_rows(int64_t rows, int64_t k, int64_t step) {
  const int64_t wanted = kSliceBytes / (k / 2 + k / 16) / step * step;
  return std::min(rows, std::max(step, wanted));
}

std::span<const std::byte> rows_of(ConstTensorView view, int64_t first, int64_t count) {
  const int64_t bytes = static_cast<int64_t>(view.bytes()) / view.rows();
  return {view.data() + first * bytes, static_cast<size_t>(count * bytes)};
}

}  // namespace

cuda::Format cuda_format(WeightFormat format) {
  switch (format) {
    case WeightFormat::bf16:
      return cuda::Format::bf16;
    case WeightFormat::fp8:
      return cuda::Format::fp8;
    case WeightFormat::nvfp4:
      return cuda::Format::nvfp4;
    case WeightFormat::f32:
      break;
  }
  NIBBLE_CHECK(false, "no kernel for this format", formats::weight_format_name(format));
  return cuda::Format::bf16;
}

size_t CudaDevice::packed_linear_bytes(WeightFormat format, int64_t out_features,
                                       int64_t in_features) const {
  return cuda::packed_bytes(cuda_format(format), out_features, in_features);
}

size_t CudaDevice::packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                                        int64_t in_features) const {
  return cuda::packed_bytes(cuda_format(format), 2 * intermediate, in_features);
}

void CudaDevice::push_nvfp4_slices(const formats::LinearWeight& weight, std::byte* destination,
                                   UploadLane& lane) {
  const int64_t n = weight.out_features, k = weight.in_features;
  auto* raw = static_cast<std::byte*>(lane.raw.get());
  const bool units = n % 16 == 0 && k % 256 == 0;
  if (!units) {  // plain layout: the stored bytes
    lane.push(destination, rows_of(weight.weight, 0, n));
    lane.push(destination + n * (k / 2), rows_of(weight.weight_scale, 0, n));
    return;
  }
  const int64_t step = upload_rows(n, k, 16);
  for (int64_t first = 0; first < n; first += step) {
    const int64_t count = std::min(step, n - first);
    lane.push(raw, rows_of(weight.weight, first, count));
    lane.push(raw + count * (k / 2), rows_of(weight.weight_scale, first, count));
    cuda::pack_nvfp4(raw, raw + count * (k / 2), count, k, destination + first * (k / 2 + k / 16),
                     lane.stream);
  }
}

PackedLinear CudaDevice::pack_linear(const formats::LinearWeight& weight, std::byte* destination) {
  const UploadLanes::Use lane = lanes_.take();
  if (cuda_format(weight.format) == cuda::Format::nvfp4) {
    push_nvfp4_slices(weight, destination, *lane);
  } else {
    lane->push(destination, {weight.weight.data(), weight.weight.bytes()});
  }
  return {.format = weight.format,
          .out_features = weight.out_features,
          .in_features = weight.in_features,
          .data = destination,
          .tensor_scale = weight.weight_scale_2};
}

void CudaDevice::pack_gate_up(const formats::LinearWeight& gate, const formats::LinearWeight& up,
                              std::byte* destination) {
  const int64_t n = gate.out_features, k = gate.in_features;
  const UploadLanes::Use lane = lanes_.take();
  if (cuda_format(gate.format) != cuda::Format::nvfp4) {
    lane->push(destination, {gate.weight.data(), gate.weight.bytes()});
    lane->push(destination + gate.weight.bytes(), {up.weight.data(), up.weight.bytes()});
    return;
  }
  const int64_t codes = k / 2, scales = k / 16;
  if (n % 8 != 0 || k % 256 != 0) {  // plain layout: all codes, then all scales
    lane->push(destination, rows_of(gate.weight, 0, n));
    lane->push(destination + n * codes, rows_of(up.weight, 0, n));
    lane->push(destination + 2 * n * codes, rows_of(gate.weight_scale, 0, n));
    lane->push(destination + 2 * n * codes + n * scales, rows_of(up.weight_scale, 0, n));
    return;
  }
  const int64_t step = upload_rows(n, k, 8);
  for (int64_t first = 0; first < n; first += step) {
    const int64_t count = std::min(step, n - first);
    std::byte* at = static_cast<std::byte*>(lane->raw.get());
    const auto push = [&](ConstTensorView view) {
      const std::span<const std::byte> bytes = rows_of(view, first, count);
      std::byte* from = at;
      lane->push(at, bytes);
      at += bytes.size();
      return static_cast<const void*>(from);
    };
    const cuda::GateUpSource source{push(gate.weight), push(gate.weight_scale), push(up.weight),
                                    push(up.weight_scale)};
    cuda::pack_gate_up_nvfp4(source, count, k, destination + 2 * first * (codes + scales),
                             lane->stream);
  }
}

GemmArgs CudaDevice::gemm_args(const cuda::LinearArgs& args, const GemmPlace& place) {
  const cuda::Weight& w = args.weight;
  return {.x = args.x,
          .w = w.data,
          .y = args.out,
          .y_is_bf16 = args.out_type == cuda::Element::bf16,
          .accumulate = args.accumulate,
          .alpha = w.scale,
          .m = args.m,
          .n = w.n,
          .k = w.k,
          .y_stride = args.out_stride,
          .multiprocessors = place.multiprocessors};
}

void CudaDevice::gemm(const cuda::LinearArgs& args, const GemmPlace& place) {
  const cuda::Weight& w = args.weight;
  GemmArgs product = gemm_args(args, place);
  if (w.format == cuda::Format::bf16) {
    gemm_.run(product, scratch_.gemm, place.stream);
    return;
  }
  // Decoded to BF16 (exact) in row slices: columns of y.
  const int64_t step = slice_rows(w);
  for (int64_t first = 0; first < w.n; first += step) {
    product.n = std::min(step, w.n - first);
    product.w = scratch_.dequantized;
    product.y = output_column(args, first);
    cuda::dequantize(w, first, product.n, scratch_.dequantized, place.stream);
    gemm_.run(product, scratch_.gemm, place.stream);
  }
}

cuda::LinearArgs CudaDevice::linear_args(ConstTensorView x, const PackedLinear& weight,
                                         TensorView out, Accumulate accumulate) const {
  NIBBLE_CHECK(x.row_elements() == weight.in_features &&
                   out.row_elements() == weight.out_features && out.rows() == x.rows(),
               "linear shapes", weight.out_features, weight.in_features, x.rows(), out.rows());
  return {.x = x.data(),
          .x_type = cuda_element(x.dtype()),
          .weight = {.format = cuda_format(weight.format),
                     .data = weight.data,
                     .n = weight.out_features,
                     .k = weight.in_features,
                     .scale = weight.tensor_scale},
          .out = out.data(),
          .out_type = cuda_element(out.dtype()),
          .out_stride = weight.out_features,
          .accumulate = accumulate == Accumulate::add,
          .m = x.rows()};
}

void CudaDevice::linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
                        Accumulate accumulate) {
  const cuda::LinearArgs args = linear_args(x, weight, out, accumulate);
  if (args.m == 0) return;
  const bool can_gemm = args.x_type == cuda::Element::bf16 && weight.in_features % 8 == 0 &&
                        weight.out_features % 8 == 0;
  if (cuda::can_linear_mma(args)) {
    cuda::linear_mma(args, stream_.get());
  } else if (can_gemm && args.m > cuda::kMaxMmaRows) {
    gemm(args, everywhere());
  } else {
    cuda::linear_generic(args, stream_.get());
  }
}

}  // namespace nibble::device
