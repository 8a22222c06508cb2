// The CUDA device's routing and expert products: which kernel serves which shape.
//
// Candidates, first that fits: units (few rows per expert), generic. Large steps of the 35B shapes
// take the fused path of cuda_blocks.cc.
#include "device/cuda/cuda_device_impl.h"

namespace nibble::device {
namespace {

const int32_t* ids_of(ConstTensorView experts) {
  return experts.empty() ? nullptr : experts.as<int32_t>();
}

int32_t slots_of(ConstTensorView experts) {
  return experts.empty() ? 1 : static_cast<int32_t>(experts.row_elements());
}

}  // namespace

cuda::Bank cuda_bank(const PackedExperts& experts) {
  return {.format = cuda_format(experts.format),
          .data = reinterpret_cast<const uint8_t*>(experts.data),
          .stride = static_cast<int64_t>(experts.expert_stride_bytes),
          .scales = experts.tensor_scales,
          .num_experts = static_cast<int32_t>(experts.num_experts),
          .n = experts.out_features,
          .k = experts.in_features};
}

void CudaDevice::moe_route(ConstTensorView logits, const int32_t* forced, TensorView experts,
                           TensorView expert_weights) {
  if (forced != nullptr) {  // an Observer's choice, in host memory
    upload(reinterpret_cast<std::byte*>(scratch_.forced),
           {reinterpret_cast<const std::byte*>(forced), experts.bytes()});
  }
  cuda::moe_route({.logits = logits.as<float>(),
                   .logit_stride = logits.row_elements(),
                   .forced = forced == nullptr ? nullptr : scratch_.forced,
                   .experts = experts.as<int32_t>(),
                   .weights = expert_weights.as<float>(),
                   .rows = logits.rows(),
                   .num_experts = static_cast<int32_t>(logits.row_elements()),
                   .chosen = static_cast<int32_t>(experts.row_elements())},
                  stream_.get());
}

void CudaDevice::moe_gate_up(const StepPlan& plan, ConstTensorView x, const PackedExperts& gate_up,
                             ConstTensorView experts, TensorView out) {
  const bool rounds = rounds_to_fp8(plan) && gate_up.format != WeightFormat::bf16;
  if (rounds) round_rows(x, scratch_.fp8.rows);
  const cuda::MoeArgs args{.bank = cuda_bank(gate_up),
                           .experts = ids_of(experts),
                           .table = table_of(experts),
                           .x = rounds ? scratch_.fp8.rows : x.data(),
                           .x_type = cuda_element(x.dtype()),
                           .out = out.data(),
                           .out_type = cuda_element(out.dtype()),
                           .rows = x.rows(),
                           .slots = slots_of(experts),
                           .rounds_weights = rounds};
  cuda::moe_table({.experts = args.experts,
                   .rows = args.rows,
                   .slots = args.slots,
                   .num_experts = args.bank.num_experts,
                   .table = args.table},
                  stream_.get());
  if (rounds) {  // down's inputs, too
    cuda::moe_gate_up_generic(args, stream_.get());
    round_rows(out, out.data());
  } else if (rounds_to_fp4(plan) && gate_up.format == WeightFormat::nvfp4) {
    gate_up_fp4(args);
  } else {
    multiply_gate_up(args);
  }
}

void CudaDevice::multiply_gate_up(const cuda::MoeArgs& args) {
  if (cuda::can_moe_gate_up_units(args)) {
    cuda::moe_gate_up_units(args, stream_.get());
  } else {
    cuda::moe_gate_up_generic(args, stream_.get());
  }
}

void CudaDevice::multiply_down(const cuda::MoeArgs& args) {
  if (!args.rounds_weights && cuda::can_moe_down_units(args)) {
    cuda::moe_down_units(args, stream_.get());
  } else {
    cuda::moe_down_generic(args, stream_.get());
  }
}

void CudaDevice::moe_down_combine(const StepPlan& plan, ConstTensorView slots,
                                  const PackedExperts& down, ConstTensorView experts,
                                  ConstTensorView expert_weights, TensorView out) {
  // The routing table is the one that moe_gate_up made of the same routing just before.
  const cuda::MoeArgs args{.bank = cuda_bank(down),
                           .experts = ids_of(experts),
                           .table = table_of(experts),
                           .x = slots.data(),
                           .x_type = cuda_element(slots.dtype()),
                           .out = scratch_.expert_outputs,
                           .out_type = cuda::Element::f32,
                           .rows = out.rows(),
                           .slots = slots_of(experts),
                           .rounds_weights = rounds_to_fp8(plan)};
  if (rounds_to_fp4(plan) && down.format == WeightFormat::nvfp4) {
    down_fp4(args);
  } else {
    multiply_down(args);
  }
  cuda::moe_combine({.y = reinterpret_cast<const float*>(scratch_.expert_outputs),
                     .weights = experts.empty() ? nullptr : expert_weights.as<float>(),
                     .out = out.as<float>(),
                     .rows = out.rows(),
                     .n = out.row_elements(),
                     .slots = args.slots},
                    stream_.get());
}

}  // namespace nibble::device
