// Mixers' projections of large steps under Activations::fp8: E4M3 rows times E4M3 weights.
//
// BF16 weights become E4M3 with a power-of-two scale per output row, NVFP4 weights e4m3(code *
// block scale / 8), FP8 weights are multiplied as stored. Shapes that cuBLASLt does not take are
// multiplied with the same operand values by the generic kernel.
#include "device/cuda/cuda_device_impl.h"
#include "kernels/cuda/fp8_rows.h"

#include <algorithm>

namespace nibble::device {
namespace {

const std::byte* bf16_row(const cuda::Weight& weight, int64_t row) {
  return static_cast<const std::byte*>(weight.data) + 2 * row * weight.k;
}

}  // namespace

/// x to the scratch for E4M3 rows.
void CudaDevice::to_fp8(ConstTensorView x) {
  cuda::fp8_rows({.x = x.data(),
                  .rows = x.rows(),
                  .k = x.row_elements(),
                  .out = scratch_.fp8.rows,
                  .scales = scratch_.fp8.row_scales},
                 stream_.get());
}

/// The values of x's E4M3 rows as BF16; out may be x.
void CudaDevice::round_rows(ConstTensorView x, void* out) {
  cuda::fp8_round_rows(
      {.x = x.data(), .rows = x.rows(), .k = x.row_elements(), .out = out, .scales = nullptr},
      stream_.get());
}

/// args.x: not looked at; the rows are in the scratch.
void CudaDevice::multiply_fp8(const cuda::LinearArgs& args, const GemmPlace& place) {
  const cuda::Weight& w = args.weight;
  GemmArgs product = gemm_args(args, place);
  product.x = scratch_.fp8.rows;
  product.x_scales = scratch_.fp8.row_scales;
  product.w_scales = scratch_.fp8.ones;
  if (w.format == cuda::Format::fp8) {
    gemm_.run(product, scratch_.gemm, place.stream);
    return;
  }
  product.w = scratch_.dequantized;
  if (w.format == cuda::Format::nvfp4) {
    product.alpha *= cuda::kFp8Nvfp4Factor;
  } else {
    product.w_scales = scratch_.fp8.weight_scales;
  }
  const int64_t step = slice_rows(w);
  for (int64_t first = 0; first < w.n; first += step) {
    product.n = std::min(step, w.n - first);
    product.y = output_column(args, first);
    if (w.format == cuda::Format::nvfp4) {
      cuda::fp8_nvfp4_rows(w, first, product.n, scratch_.dequantized, place.stream);
    } else {
      cuda::fp8_rows({.x = bf16_row(w, first),
                      .rows = product.n,
                      .k = w.k,
                      .out = scratch_.dequantized,
                      .scales = scratch_.fp8.weight_scales},
                     place.stream);
    }
    gemm_.run(product, scratch_.gemm, place.stream);
  }
}

/// The same operand values through the generic kernel.
void CudaDevice::multiply_rounded(const cuda::LinearArgs& args) {
  const cuda::Weight& w = args.weight;
  cuda::LinearArgs product = args;
  product.x = scratch_.fp8.rows;
  cuda::fp8_round_rows(
      {.x = args.x, .rows = args.m, .k = w.k, .out = scratch_.fp8.rows, .scales = nullptr},
      stream_.get());
  if (w.format == cuda::Format::fp8) {
    cuda::linear_generic(product, stream_.get());
    return;
  }
  product.weight.data = scratch_.dequantized;
  const int64_t step = slice_rows(w);
  for (int64_t first = 0; first < w.n; first += step) {
    product.weight.n = std::min(step, w.n - first);
    product.out = output_column(args, first);
    if (w.format == cuda::Format::nvfp4) {
      product.weight.format = cuda::Format::fp8;
      product.weight.scale = w.scale * cuda::kFp8Nvfp4Factor;
      cuda::fp8_nvfp4_rows(w, first, product.weight.n, scratch_.dequantized, stream_.get());
    } else {
      cuda::fp8_round_rows({.x = bf16_row(w, first),
                            .rows = product.weight.n,
                            .k = w.k,
                            .out = scratch_.dequantized,
                            .scales = nullptr},
                           stream_.get());
    }
    cuda::linear_generic(product, stream_.get());
  }
}

void CudaDevice::project(const StepPlan& plan, ConstTensorView x, const PackedLinear& weight,
                         TensorView out, Accumulate accumulate) {
  if (rounds_to_fp4(plan) && weight.format == WeightFormat::nvfp4) {
    project_fp4(x, weight, out, accumulate);
    return;
  }
  if (!rounds_to_fp8(plan)) {
    linear(x, weight, out, accumulate);
    return;
  }
  const cuda::LinearArgs args = linear_args(x, weight, out, accumulate);
  if (takes_fp8(weight)) {
    to_fp8(x);
    multiply_fp8(args, everywhere());
  } else {
    multiply_rounded(args);
  }
}

}  // namespace nibble::device
