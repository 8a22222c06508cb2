// Fused prefill blocks of the CUDA device: steps with more rows than sequences.
//
// Each reads what the projections left once: rotary, K/V store and attention with its gate;
// convolution, gates and chunked delta rule; the expert layer as grouped products. Blocks serve
// their shapes whatever the hidden size; every other shape and every step with an Observer takes
// the composed blocks.
#include "device/cuda/cuda_device_impl.h"

#include <utility>

namespace nibble::device {
namespace {

TensorView rows_of(const TensorView& buffer, int64_t rows) {
  return buffer.slice_rows(0, rows);
}

/// Rows of an f32 buffer, or BF16 in its room: beside E4M3 inputs the rounding does not count.
TensorView rows_as(DType dtype, const TensorView& buffer, int64_t rows) {
  return {buffer.data(), dtype, {rows, buffer.row_elements()}};
}

/// Whether two BF16 matrices lie behind each other.
bool are_one_matrix(const PackedLinear& first, const PackedLinear& second) {
  return first.format == WeightFormat::bf16 && second.format == WeightFormat::bf16 &&
         first.in_features == second.in_features &&
         first.data + 2 * first.out_features * first.in_features == second.data;
}

}  // namespace

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

/// The norm in front of a mixer; E4M3 rows beside BF16 ones where the step rounds to them.
cuda::PrefillNormArgs CudaDevice::mixer_norm_args(const StepPlan& plan, const float* weight,
                                                  ConstTensorView residual, TensorView out) const {
  return {.h = residual.as<float>(),
          .weight = weight,
          .gate_weight = nullptr,
          .x = out.data(),
          .permuted = nullptr,
          .logits = nullptr,
          .rows = residual.rows(),
          .eps = spec_.rms_norm_eps,
          .fp8 = rounds_to_fp8(plan) ? scratch_.fp8.rows : nullptr,
          .fp8_scales = scratch_.fp8.row_scales};
}

/// For project_norm(), unless the block before has done it. keeps_bf16: others read it too.
void CudaDevice::prefill_norm(const StepPlan& plan, const float* weight, ConstTensorView residual,
                              TensorView out, bool keeps_bf16) {
  const DoneNorm wanted{weight, residual.data(), residual.rows()};
  if (std::exchange(done_norm_, {}) == wanted) return;
  if (spec_.hidden_size != cuda::kHidden) {
    rms_norm(residual, weight, out);
    if (rounds_to_fp8(plan)) to_fp8(out);
    return;
  }
  cuda::PrefillNormArgs args = mixer_norm_args(plan, weight, residual, out);
  if (args.fp8 != nullptr && !keeps_bf16) args.x = nullptr;
  cuda::prefill_norm(args, stream_.get());
}

/// project() of what prefill_norm() left: E4M3 rows are there already.
void CudaDevice::project_norm(const StepPlan& plan, ConstTensorView norm,
                              const PackedLinear& weight, TensorView out) {
  if (rounds_to_fp8(plan) && takes_fp8(weight)) {
    multiply_fp8(linear_args(norm, weight, out, Accumulate::replace), everywhere());
  } else {
    project(plan, norm, weight, out, Accumulate::replace);
  }
}

void CudaDevice::prefill_attention_block(const StepPlan& plan, const AttentionWeights& weights,
                                         const KvLayer& cache, ConstTensorView residual,
                                         TensorView out, Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView q_gate = rows_as(gate_dtype(plan), workspace_.q_gate, rows);
  const TensorView k = rows_of(workspace_.k, rows);
  TensorView v = rows_of(workspace_.v, rows);
  int64_t kv_stride = k.row_elements();
  const TensorView gated = rows_of(workspace_.gated, rows);
  const auto heads = static_cast<int32_t>(weights.num_heads);
  const auto kv_heads = static_cast<int32_t>(weights.num_kv_heads);
  prefill_norm(plan, weights.input_norm, residual, norm, false);
  project_norm(plan, norm, weights.q_proj, q_gate);
  if (are_one_matrix(weights.k_proj, weights.v_proj)) {
    PackedLinear both = weights.k_proj;
    both.out_features += weights.v_proj.out_features;
    // v's buffer lies behind k's.
    const TensorView out_both(k.data(), DType::f32, {rows, both.out_features});
    project_norm(plan, norm, both, out_both);
    v = TensorView(out_both.data() + weights.k_proj.out_features * 4, DType::f32, v.shape());
    kv_stride = both.out_features;
  } else {
    project_norm(plan, norm, weights.k_proj, k);
    project_norm(plan, norm, weights.v_proj, v);
  }
  const cuda::KvCache pages{cache.k, cache.v, cuda_element(cache.dtype), cache.k_scale,
                            cache.v_scale};
  cuda::prefill_rotary(
      {.step = step_of(plan),
       .cache = pages,
       .q_gate = q_gate.data(),
       .q_gate_type = cuda_element(q_gate.dtype()),
       .k = k.as<float>(),
       .v = v.as<float>(),
       .kv_stride = kv_stride,
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
  cuda::PrefillAttentionArgs attention = prefill_attention_args(plan, weights, cache);
  attention.q_bf16 = workspace_.q.data();
  attention.core = workspace_.attention_core.as<float>();
  attention.gate_type = cuda_element(q_gate.dtype());
  attention.gate =
      q_gate.data() + weights.head_dim * static_cast<int64_t>(dtype_bytes(q_gate.dtype()));
  attention.gate_stride = q_gate.row_elements();
  attention.gated = gated.data();
  cuda::prefill_attention(attention, stream_.get());
  project(plan, gated, weights.o_proj, out, accumulate);
}

/// The scan of one sequence leaves half of the multiprocessors idle: so many rows of z are computed
/// beside it as take about as long, the others before. Whoever reads z waits for side_end_.
void CudaDevice::project_z_around_scan(const StepPlan& plan, const DeltaNetWeights& weights,
                                       ConstTensorView norm, TensorView z) {
  const int64_t rows = norm.rows();
  const int64_t idle =
      info_.multiprocessors -
      cuda::prefill_scan_blocks(plan.num_sequences, static_cast<int32_t>(weights.num_value_heads));
  const bool fp8 = rounds_to_fp8(plan);
  int64_t beside = fp8 ? rows : rows * 7 / 16 / 64 * 64;
  if (idle <= 0 || rows < 256 || rounds_to_fp4(plan) || (fp8 && !takes_fp8(weights.in_proj_z))) {
    beside = 0;
  }
  const int64_t before = rows - beside;
  if (before > 0) {
    project_norm(plan, norm.slice_rows(0, before), weights.in_proj_z, z.slice_rows(0, before));
  }
  if (beside == 0) return;
  const cuda::LinearArgs args = linear_args(norm.slice_rows(before, beside), weights.in_proj_z,
                                            z.slice_rows(before, beside), Accumulate::replace);
  const GemmPlace place{side_stream_.get(), static_cast<int32_t>(idle)};
  NIBBLE_CUDA_CHECK(cudaEventRecord(side_begin_.get(), stream_.get()));
  NIBBLE_CUDA_CHECK(cudaStreamWaitEvent(side_stream_.get(), side_begin_.get(), 0));
  if (fp8) {
    multiply_fp8(args, place);
  } else {
    gemm(args, place);
  }
  NIBBLE_CUDA_CHECK(cudaEventRecord(side_end_.get(), side_stream_.get()));
}

void CudaDevice::prefill_delta_block(const StepPlan& plan, const DeltaNetWeights& weights,
                                     const StateLayer& cache, ConstTensorView residual,
                                     TensorView out, Accumulate accumulate) {
  const int64_t rows = plan.num_rows;
  const TensorView norm = rows_of(workspace_.norm, rows);
  const TensorView qkv = rows_of(workspace_.qkv_pre, rows),
                   z = rows_as(gate_dtype(plan), workspace_.z, rows);
  const TensorView normed = rows_of(workspace_.delta_normed, rows);
  prefill_norm(plan, weights.input_norm, residual, norm, true);
  project_norm(plan, norm, weights.in_proj_qkv, qkv);
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
  const cuda::PrefillDeltaArgs delta{
      .step = step_of(plan),
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
      .core = core};
  cuda::prefill_delta_terms(delta, stream_.get());
  project_z_around_scan(plan, weights, norm, z);
  cuda::prefill_delta_scan(delta, stream_.get());
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
  NIBBLE_CUDA_CHECK(cudaStreamWaitEvent(stream_.get(), side_end_.get(), 0));
  const bool fp8 =
      rounds_to_fp8(plan) && heads == cuda::kFp8GatedHeads && takes_fp8(weights.out_proj);
  cuda::prefill_gated_norm({.core = core,
                            .z = z.data(),
                            .z_type = cuda_element(z.dtype()),
                            .weight = weights.norm,
                            .out = fp8 ? scratch_.fp8.rows : normed.data(),
                            .rows = rows,
                            .heads = heads,
                            .eps = spec_.rms_norm_eps,
                            .fp8_scales = fp8 ? scratch_.fp8.row_scales : nullptr},
                           stream_.get());
  if (fp8) {
    multiply_fp8(linear_args(normed, weights.out_proj, out, accumulate), everywhere());
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
        .m = rows},
       everywhere());
  cuda::prefill_route(
      {.logits = scratch_.prefill_logits,
       .rows = rows,
       .table = scratch_.prefill,
       .experts_out = plan.routing_log == nullptr
                          ? nullptr
                          : plan.routing_log + weights.layer * rows * cuda::kRouted},
      stream_.get());
  grouped_products(weights, rows, fp8);
  cuda::PrefillNormArgs next{};
  if (weights.next_norm != nullptr) {
    next = mixer_norm_args(plan, weights.next_norm, hidden, rows_of(workspace_.norm, rows));
    done_norm_ = {weights.next_norm, hidden.data(), rows};
  }
  cuda::prefill_combine(scratch_.pair_outputs, scratch_.prefill, hidden.as<float>(), rows, next,
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
