// W4A4: NVFP4 weights times inputs rounded to NVFP4, in large steps under Activations::nvfp4.
//
// Weights in units take the products of kernels/cuda/w4a4.h, other shapes the same operand values
// in BF16 through the ordinary products. Weights that are not NVFP4 keep their inputs.
#include "device/cuda/cuda_device_impl.h"

namespace nibble::device {

cuda::Fp4Rows CudaDevice::to_fp4(const void* x, int64_t rows, int64_t k) {
  const cuda::Fp4Rows to = cuda::fp4_rows_at(scratch_.fp4, rows, k);
  cuda::quantize_fp4_rows(x, rows, k, to, stream_.get());
  return to;
}

/// The rounded rows as BF16, in the scratch.
const void* CudaDevice::round_to_fp4(const void* x, int64_t rows, int64_t k) {
  cuda::round_fp4_rows(x, rows, k, scratch_.fp4, stream_.get());
  return scratch_.fp4;
}

void CudaDevice::project_fp4(ConstTensorView x, const PackedLinear& weight, TensorView out,
                             Accumulate accumulate) {
  const cuda::LinearArgs args = linear_args(x, weight, out, accumulate);
  if (cuda::can_w4a4(args.weight)) {
    cuda::linear_w4a4(args, to_fp4(args.x, args.m, args.weight.k), stream_.get());
  } else {
    round_to_fp4(args.x, args.m, args.weight.k);
    linear(ConstTensorView(scratch_.fp4, x.dtype(), {args.m, args.weight.k}), weight, out,
           accumulate);
  }
}

void CudaDevice::gate_up_fp4(cuda::MoeArgs args) {
  if (cuda::can_moe_w4a4(args.bank)) {
    cuda::moe_gate_up_w4a4(args, to_fp4(args.x, args.rows, args.bank.k), stream_.get());
  } else {
    args.x = round_to_fp4(args.x, args.rows, args.bank.k);
    multiply_gate_up(args);
  }
}

void CudaDevice::down_fp4(cuda::MoeArgs args) {
  const int64_t pairs = args.rows * args.slots;
  if (cuda::can_moe_w4a4(args.bank)) {
    cuda::moe_down_w4a4(args, to_fp4(args.x, pairs, args.bank.k), stream_.get());
  } else {
    args.x = round_to_fp4(args.x, pairs, args.bank.k);
    multiply_down(args);
  }
}

}  // namespace nibble::device
