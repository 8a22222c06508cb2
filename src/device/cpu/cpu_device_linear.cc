// The CPU device's matrix products: packing weights into panels, dense layers, grouped experts.
//
// How a product is cut into tasks comes from the kernels' own planners; the bits do not depend on
// it.
#include "device/cpu/cpu_device_impl.h"
#include "kernels/cpu/linear/packed_weights.h"

namespace nibble::device {
namespace {

constexpr int64_t kPanelsPerPackTask = 16;

cpu::PanelFormat panel_format(WeightFormat format) {
  switch (format) {
    case WeightFormat::bf16:
      return cpu::PanelFormat::bf16;
    case WeightFormat::fp8:
      return cpu::PanelFormat::fp8;
    case WeightFormat::nvfp4:
      return cpu::PanelFormat::nvfp4;
    case WeightFormat::f32:
      break;
  }
  NIBBLE_CHECK(false, "no panels for this format", formats::weight_format_name(format));
  return cpu::PanelFormat::bf16;
}

cpu::LinearSource source_of(const formats::LinearWeight& weight) {
  const auto bytes = [](ConstTensorView view) {
    return reinterpret_cast<const unsigned char*>(view.data());
  };
  return {.format = panel_format(weight.format),
          .n = weight.out_features,
          .k = weight.in_features,
          .weight = bytes(weight.weight),
          .scales = bytes(weight.weight_scale)};
}

const unsigned char* panels(const std::byte* data) {
  return reinterpret_cast<const unsigned char*>(data);
}

}  // namespace

cpu::LinearArithmetic CpuDevice::linear_arithmetic() const {
  return arithmetic() == Arithmetic::f32 ? cpu::LinearArithmetic::f32
                                         : cpu::LinearArithmetic::exact;
}

size_t CpuDevice::packed_linear_bytes(WeightFormat format, int64_t out_features,
                                      int64_t in_features) const {
  return cpu::packed_linear_bytes(panel_format(format), out_features, in_features);
}

PackedLinear CpuDevice::pack_linear(const formats::LinearWeight& weight, std::byte* destination) {
  const cpu::LinearSource source = source_of(weight);
  const int64_t count = cpu::num_panels(source.n);
  auto* out = reinterpret_cast<unsigned char*>(destination);
  pool_.parallel_for(cpu::ceil_div(count, kPanelsPerPackTask), [&](int64_t task, int) {
    const int64_t begin = task * kPanelsPerPackTask;
    cpu::pack_linear_panels(source, out, begin, std::min(count, begin + kPanelsPerPackTask));
  });
  return {.format = weight.format,
          .out_features = weight.out_features,
          .in_features = weight.in_features,
          .data = destination,
          .tensor_scale = weight.weight_scale_2};
}

size_t CpuDevice::packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                                       int64_t in_features) const {
  return cpu::packed_gate_up_bytes(panel_format(format), intermediate, in_features);
}

void CpuDevice::pack_gate_up(const formats::LinearWeight& gate, const formats::LinearWeight& up,
                             std::byte* destination) {
  const cpu::LinearSource gate_source = source_of(gate);
  const cpu::LinearSource up_source = source_of(up);
  const int64_t count = cpu::num_panels(gate_source.n);
  auto* out = reinterpret_cast<unsigned char*>(destination);
  pool_.parallel_for(cpu::ceil_div(count, kPanelsPerPackTask), [&](int64_t task, int) {
    const int64_t begin = task * kPanelsPerPackTask;
    cpu::pack_gate_up_panels(gate_source, up_source, out, begin,
                             std::min(count, begin + kPanelsPerPackTask));
  });
}

void CpuDevice::linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
                       Accumulate accumulate) {
  const int64_t m = x.rows();
  NIBBLE_CHECK(x.row_elements() == weight.in_features &&
                   out.row_elements() == weight.out_features && out.rows() == m,
               "linear shapes", to_string(x.shape()), to_string(out.shape()), weight.out_features,
               weight.in_features);
  NIBBLE_CHECK(x.dtype() == activation_dtype(), "linear input type", dtype_name(x.dtype()));
  cpu::LinearArgs args{.x = x.data(),
                       .x_stride = weight.in_features,
                       .x_packed = x.data(),
                       .y = out.data(),
                       .y_stride = weight.out_features,
                       .y_type = element_of(out.dtype()),
                       .accumulate = accumulate == Accumulate::add,
                       .weights = panels(weight.data),
                       .format = panel_format(weight.format),
                       .arithmetic = linear_arithmetic(),
                       .m = m,
                       .n = weight.out_features,
                       .k = weight.in_features,
                       .tensor_scale = weight.tensor_scale};
  const cpu::LinearPlan plan = cpu::plan_linear(linear_kernels_, args.arithmetic, args.format, m,
                                                args.n, args.k, pool_.num_threads());
  if (plan.pack_tasks > 0) {
    NIBBLE_CHECK(plan.packed_bytes <= packed_rows_.size(), "packed rows", plan.packed_bytes);
    args.x_packed = packed_rows_.data();
    pool_.parallel_for(plan.pack_tasks, [&](int64_t task, int) {
      linear_kernels_.pack_rows(args, packed_rows_.data(), cpu::pack_task_begin(plan, task),
                                cpu::pack_task_begin(plan, task + 1));
    });
  }
  pool_.parallel_for(plan.tasks, [&](int64_t task, int) {
    linear_kernels_.linear(args, cpu::linear_task(plan, task));
  });
}

void CpuDevice::moe_gate_up(const StepPlan& /*plan*/, ConstTensorView x,
                            const PackedExperts& gate_up, ConstTensorView experts, TensorView out) {
  cpu::MoePlan& plan = moe_plan(experts);
  plan.build(experts.empty() ? nullptr : experts.as<int32_t>(), x.rows());
  const cpu::MoeGateUpArgs args{
      .x = x.data(),
      .x_stride = gate_up.in_features,
      .sorted_slots = plan.sorted_slots(),
      .slots_per_row = experts.empty() ? 1 : experts.row_elements(),
      .out = out.data(),
      .out_stride = out.row_elements(),
      .weights = panels(gate_up.data),
      .expert_stride_bytes = static_cast<int64_t>(gate_up.expert_stride_bytes),
      .tensor_scales = gate_up.tensor_scales,
      .format = panel_format(gate_up.format),
      .arithmetic = linear_arithmetic(),
      .hidden = gate_up.in_features,
      .intermediate = gate_up.out_features / 2};
  const std::span<const cpu::MoeTask> tasks = plan.gate_up_tasks();
  pool_.parallel_for(static_cast<int64_t>(tasks.size()), [&](int64_t task, int worker) {
    moe_kernels_.gate_up(args, tasks[static_cast<size_t>(task)], scratch(worker));
  });
}

void CpuDevice::moe_down_combine(const StepPlan& /*plan*/, ConstTensorView slots,
                                 const PackedExperts& down, ConstTensorView experts,
                                 ConstTensorView expert_weights, TensorView out) {
  // The plan is the one moe_gate_up built for the same routing just before.
  const cpu::MoePlan& plan = moe_plan(experts);
  const std::span<const cpu::MoeTask> pack_tasks = plan.pack_tasks();
  const cpu::MoeDownArgs args{
      .x = slots.data(),
      .x_stride = slots.row_elements(),
      .x_packed = packed_rows_.data(),
      .tasks = pack_tasks.data(),
      .num_tasks = static_cast<int64_t>(pack_tasks.size()),
      .sorted_slots = plan.sorted_slots(),
      .slot_positions = plan.slot_positions(),
      .slot_weights = experts.empty() ? nullptr : expert_weights.as<float>(),
      .slots_per_row = experts.empty() ? 1 : experts.row_elements(),
      .rows = out.rows(),
      .out = out.as<float>(),
      .out_stride = out.row_elements(),
      .weights = panels(down.data),
      .expert_stride_bytes = static_cast<int64_t>(down.expert_stride_bytes),
      .tensor_scales = down.tensor_scales,
      .format = panel_format(down.format),
      .arithmetic = linear_arithmetic(),
      .hidden = down.out_features,
      .intermediate = down.in_features};
  pool_.parallel_for(args.num_tasks, [&](int64_t task, int) {
    moe_kernels_.pack_slots(args, pack_tasks[static_cast<size_t>(task)]);
  });
  pool_.parallel_for(plan.down_tasks(), [&](int64_t task, int worker) {
    moe_kernels_.down_combine(args, plan.down_begin(task), plan.down_begin(task + 1),
                              scratch(worker));
  });
}

}  // namespace nibble::device
