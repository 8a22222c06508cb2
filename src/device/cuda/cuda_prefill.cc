// Fused prefill blocks of the CUDA device: steps with more rows than sequences.
//
// Each reads what the projections left once: rotary, K/V store and attention with its gate;
// convolution, gates and chunked delta rule; the expert layer as grouped products. Blocks serve
// their shapes whatever the hidden size; every other shape and every step with an Observer takes
// the composed blocks.
#include "device/cuda/cuda_device_impl.h"

namespace nibble::device {
namespace {

TensorView rows_of(const TensorView& buffer, int64_t rows) {
  return buffer.slice_rows(0, rows);
}

/// Whether two BF16 matrices lie behind each other.
bool are_one_matrix(const PackedLinear& first, const PackedLinear& second) {
  return first.format == WeightFormat::bf16 && second.format == WeightFormat::bf16 &&
         first.in_features == second.in_features &&
         first.data + 2 * first.out_features * first.in_features == second.data;
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

bool CudaDevice::is_prefill(const StepPlan& plan) const {
  return has_wgmma() && arithmetic() == Arithmetic::exact && plan.observer == nullptr &&
         plan.num_rows > plan.num_sequences;
}

bool CudaDevice::can_prefill(const StepPlan& plan, const AttentionWeights& weights,
                             const KvLayer& cache) const {
  return is_prefill(plan) && weights.head_dim == 256 &&
         weights.num_heads == 8 * weights.num_kv_heads && spec_.rotary_dim == 64 &&
         cache.dtype != DType::f32;
}

bool CudaDevice::can_prefill(const StepPlan& plan, const DeltaNetWeights& weights,
                             const StateLayer& cache) const {
  return is_prefill(plan) && plan.num_sequences <= cuda::kMaxDeltaSequences &&
         weights.key_head_dim == 128 && weights.value_head_dim == 128 &&
         weights.num_value_heads == 2 * weights.num_key_heads && weights.conv_kernel == 4 &&
         cache.conv_columns == 3 && cache.conv_dtype == DType::bf16;
}

/// The norm in front of a mixer, for project_norm(). keeps_bf16: others read it too.
void CudaDevice::prefill_norm(const StepPlan& plan, const float* weight, ConstTensorView residual,
                              TensorView out, bool keeps_bf16) {
  const bool fp8 = rounds_to_fp8(plan);
  if (spec_.hidden_size != cuda::kHidden) {
    rms_norm(residual, weight, out);
    if (fp8) to_fp8(out);
    return;
  }
  cuda::prefill_norm({.h = residual.as<float>(),
                      .weight = weight,
                      .gate_weight = nullptr,
                      .x = fp8 && !keeps_bf16 ? nullptr : out.data(),
                      .permuted = nullptr,
                      .logits = nullptr,
                      .rows = residual.rows(),
                      .eps = spec_.rms_norm_eps,
                      .fp8 = fp8 ? scratch_.fp8.rows : nullptr,
                      .fp8_scales = scratch_.fp8.row_scales},
                     stream_.get());
}

/// project() of what prefill_norm() left: E4M3 rows are there already.
void CudaDevice::project_norm(const StepPlan& plan, ConstTensorView norm,
                              const PackedLinear& weight, TensorView out) {
  if (rounds_to_fp8(plan) && takes_fp8(weight)) {
    multiply_fp8(linear_args(norm, weight, out, Accumulate::replace));
  } else {
    project(plan, norm, weight, out, Accumulate::replace);
  }
}

void CudaDevice::prefill_attention_block(const StepPlan& plan, const AttentionWeights& weights,
                                         const KvLayer& cache, ConstTensorView residual,
                                         TensorView out, Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView q_gate = rows_of(workspace_.q_gate, rows);
  const TensorView k = rows_of(workspace_.k, rows), v = rows_of(workspace_.v, rows);
  const TensorView gated = rows_of(workspace_.gated, rows);
  const auto heads = static_cast<int32_t>(weights.num_heads);
  const auto kv_heads = static_cast<int32_t>(weights.num_kv_heads);
  prefill_norm(plan, weights.input_norm, residual, norm, false);
  project_norm(plan, norm, weights.q_proj, q_gate);
  project_norm(plan, norm, weights.k_proj, k);
  project_norm(plan, norm, weights.v_proj, v);
  const cuda::KvCache pages{cache.k, cache.v, cuda_element(cache.dtype), cache.k_scale,
                            cache.v_scale};
  cuda::prefill_rotary(
      {.step = step_of(plan),
       .cache = pages,
       .q_gate = q_gate.as<float>(),
       .k = k.as<float>(),
       .v = v.as<float>(),
       .q_norm = weights.q_norm,
       .k_norm = weights.k_norm,
       .inverse_frequencies = scratch_.rope_frequencies,
       .q = workspace_.q.data(),
       .num_heads = heads,
       .num_kv_heads = kv_heads,
       .rotary_dim = static_cast<int32_t>(spec_.rotary_dim),
       .mrope_section = {spec_.mrope_section[0], spec_.mrope_section[1], spec_.mrope_section[2]},
       .eps = spec_.rms_norm_eps},
      stream_.get());
  cuda::prefill_attention({.step = step_of(plan),
                           .cache = pages,
                           .q = nullptr,
                           .q_bf16 = workspace_.q.data(),
                           .core = nullptr,
                           .gate = q_gate.as<float>() + weights.head_dim,
                           .gate_stride = q_gate.row_elements(),
                           .gated = gated.data(),
                           .num_heads = heads,
                           .num_kv_heads = kv_heads},
                          stream_.get());
  project(plan, gated, weights.o_proj, out, accumulate);
}

void CudaDevice::prefill_delta_block(const StepPlan& plan, const DeltaNetWeights& weights,
                                     const StateLayer& cache, ConstTensorView residual,
                                     TensorView out, Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView qkv = rows_of(workspace_.qkv_pre, rows), z = rows_of(workspace_.z, rows);
  const TensorView normed = rows_of(workspace_.delta_normed, rows);
  prefill_norm(plan, weights.input_norm, residual, norm, true);
  project_norm(plan, norm, weights.in_proj_qkv, qkv);
  project_norm(plan, norm, weights.in_proj_z, z);
  const int64_t heads = weights.num_value_heads;
  TensorView a = rows_of(workspace_.a, rows), b = rows_of(workspace_.b, rows);
  int64_t gate_stride = heads;
  if (are_one_matrix(weights.in_proj_b, weights.in_proj_a)) {
    PackedLinear both = weights.in_proj_b;
    both.out_features = gate_stride = 2 * heads;
    const TensorView out_both(workspace_.a.data(), DType::f32, {rows, gate_stride});
    linear(norm, both, out_both, Accumulate::replace);  // b's buffer lies behind a's
    b = out_both;
    a = TensorView(out_both.data() + heads * 4, DType::f32, {rows, heads});
  } else {
    linear(norm, weights.in_proj_a, a, Accumulate::replace);
    linear(norm, weights.in_proj_b, b, Accumulate::replace);
  }
  void* core = workspace_.delta_core.data();  // f16 in f32's room
  cuda::prefill_delta({.step = step_of(plan),
                       .qkv = qkv.data(),
                       .conv = weights.conv,
                       .window = cache.conv_window,
                       .window_stride_bytes = cache.conv_stride_bytes,
                       .a = a.as<float>(),
                       .b = b.as<float>(),
                       .gate_stride = gate_stride,
                       .a_log = weights.a_log,
                       .dt_bias = weights.dt_bias,
                       .num_key_heads = static_cast<int32_t>(weights.num_key_heads),
                       .num_value_heads = static_cast<int32_t>(weights.num_value_heads),
                       .state = cache.recurrent,
                       .state_stride = cache.recurrent_stride,
                       .scratch = scratch_.prefill_delta,
                       .core = core},
                      stream_.get());
  cuda::conv_window({.step = step_of(plan),
                     .x = qkv.data(),
                     .out = nullptr,
                     .type = cuda::Element::bf16,
                     .weight = weights.conv,
                     .channels = qkv.row_elements(),
                     .kernel = static_cast<int32_t>(weights.conv_kernel),
                     .columns = static_cast<int32_t>(cache.conv_columns),
                     .window = cache.conv_window,
                     .window_stride_bytes = cache.conv_stride_bytes},
                    stream_.get());
  const bool fp8 =
      rounds_to_fp8(plan) && heads == cuda::kFp8GatedHeads && takes_fp8(weights.out_proj);
  cuda::prefill_gated_norm({.core = core,
                            .z = z.as<float>(),
                            .weight = weights.norm,
                            .out = fp8 ? scratch_.fp8.rows : normed.data(),
                            .rows = rows,
                            .heads = heads,
                            .eps = spec_.rms_norm_eps,
                            .fp8_scales = fp8 ? scratch_.fp8.row_scales : nullptr},
                           stream_.get());
  if (fp8) {
    multiply_fp8(linear_args(normed, weights.out_proj, out, accumulate));
  } else {
    project(plan, normed, weights.out_proj, out, accumulate);
  }
}

void CudaDevice::grouped_experts(const StepPlan& plan, const MoeWeights& weights,
                                 TensorView hidden) {
  const int64_t rows = plan.num_rows;
  const bool fp8 = rounds_to_fp8(plan);
  cuda::prefill_norm({.h = hidden.as<float>(),
                      .weight = weights.post_norm,
                      .gate_weight = weights.shared_expert_gate.data,
                      .x = workspace_.norm.data(),
                      .permuted = fp8 ? nullptr : scratch_.permuted,
                      .logits = scratch_.prefill_logits,
                      .rows = rows,
                      .eps = spec_.rms_norm_eps,
                      .fp8 = fp8 ? scratch_.permuted : nullptr,
                      .fp8_scales = fp8 ? scratch_.fp8.row_scales : nullptr},
                     stream_.get());
  gemm({.x = workspace_.norm.data(),
        .x_type = cuda::Element::bf16,
        .weight = {cuda::Format::bf16, weights.router.data, cuda::kExperts, cuda::kHidden, 1.0f},
        .out = scratch_.prefill_logits,
        .out_type = cuda::Element::f32,
        .out_stride = cuda::kLogitStride,
        .accumulate = false,
        .m = rows});
  cuda::prefill_route(
      {.logits = scratch_.prefill_logits,
       .rows = rows,
       .table = scratch_.prefill,
       .experts_out = plan.routing_log == nullptr
                          ? nullptr
                          : plan.routing_log + weights.layer * rows * cuda::kRouted},
      stream_.get());
  grouped_products(weights, rows, fp8);
  cuda::prefill_combine(scratch_.pair_outputs, scratch_.prefill, hidden.as<float>(), rows,
                        stream_.get());
}

/// From the permuted rows to the outputs of all pairs.
void CudaDevice::grouped_products(const MoeWeights& weights, int64_t rows, bool fp8) {
  // E4M3 rows need the largest of a row, which several CTAs make: gate_up leaves BF16 rows where
  // the outputs come later.
  std::byte* slots = fp8 ? scratch_.pair_outputs : scratch_.permuted_slots;
  cuda::prefill_gate_up({.bank = cuda_bank(weights.gate_up),
                         .shared = cuda_bank(weights.shared_gate_up),
                         .table = scratch_.prefill,
                         .x = scratch_.permuted,
                         .x_scales = fp8 ? scratch_.fp8.row_scales : nullptr,
                         .out = slots},
                        stream_.get());
  if (fp8) {
    cuda::prefill_fp8_slots({.x = slots,
                             .out = scratch_.permuted_slots,
                             .scales = scratch_.fp8.slot_scales,
                             .rows = rows * (cuda::kRouted + 1)},
                            stream_.get());
  }
  cuda::prefill_down({.bank = cuda_bank(weights.down),
                      .shared = cuda_bank(weights.shared_down),
                      .table = scratch_.prefill,
                      .x = scratch_.permuted_slots,
                      .x_scales = fp8 ? scratch_.fp8.slot_scales : nullptr,
                      .out = scratch_.pair_outputs},
                     stream_.get());
}

}  // namespace nibble::device
