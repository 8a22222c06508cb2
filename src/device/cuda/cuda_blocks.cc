// Captured steps and fused decode blocks of the CUDA device; prefill blocks: cuda_prefill.cc.
//
// A step in which every sequence advances by one token queues the same launches whatever its
// contents: sizes come from the plan's device buffers. Such a step is captured once per shape and
// replayed. The fused blocks serve the 35B-A3B shapes (kernels/cuda/decode.h); every other shape
// and step takes the composed blocks.
#include "device/cuda/cuda_device_impl.h"

#include <array>

namespace nibble::device {
namespace {

/// What the router and gate_up kernels pull into L2 of the next input projection.
bool is_shape(const PackedLinear& weight, int64_t out_features, int64_t in_features) {
  return weight.out_features == out_features && weight.in_features == in_features &&
         (weight.format == WeightFormat::bf16 || weight.format == WeightFormat::fp8);
}

bool is_bank(const PackedExperts& bank, int64_t experts, int64_t out_features,
             int64_t in_features) {
  return bank.format == WeightFormat::nvfp4 && bank.num_experts == experts &&
         bank.out_features == out_features && bank.in_features == in_features;
}

const std::byte* end_of(const PackedLinear& weight) {
  const int64_t bytes = weight.format == WeightFormat::bf16 ? 2 : 1;
  return weight.data + weight.out_features * weight.in_features * bytes;
}

bool fits(const AttentionWeights& w, const KvLayer& cache, const WorkspaceSpec& spec) {
  return w.num_heads == 16 && w.num_kv_heads == 2 && w.head_dim == 256 && spec.rotary_dim == 64 &&
         cache.dtype != DType::f32 && is_shape(w.q_proj, 8192, cuda::kHidden) &&
         is_shape(w.k_proj, 512, cuda::kHidden) && is_shape(w.v_proj, 512, cuda::kHidden) &&
         is_shape(w.o_proj, cuda::kHidden, cuda::kMixer);
}

bool fits(const DeltaNetWeights& w, const StateLayer& cache) {
  return w.num_key_heads == 16 && w.num_value_heads == 32 && w.key_head_dim == 128 &&
         w.value_head_dim == 128 && w.conv_kernel == 4 && cache.conv_columns == 3 &&
         cache.conv_dtype == DType::bf16 && is_shape(w.in_proj_qkv, 8192, cuda::kHidden) &&
         is_shape(w.in_proj_z, cuda::kMixer, cuda::kHidden) &&
         is_shape(w.in_proj_b, 32, cuda::kHidden) && is_shape(w.in_proj_a, 32, cuda::kHidden) &&
         is_shape(w.out_proj, cuda::kHidden, cuda::kMixer);
}

bool fits(const MoeWeights& w) {
  const bool routed = is_bank(w.gate_up, cuda::kExperts, 2 * cuda::kInner, cuda::kHidden) &&
                      is_bank(w.down, cuda::kExperts, cuda::kHidden, cuda::kInner);
  const bool shared = is_bank(w.shared_gate_up, 1, 2 * cuda::kInner, cuda::kHidden) &&
                      is_bank(w.shared_down, 1, cuda::kHidden, cuda::kInner);
  return routed && shared && w.num_experts_per_tok == cuda::kRouted &&
         w.router.format == WeightFormat::bf16 &&
         is_shape(w.router, cuda::kExperts, cuda::kHidden) &&
         w.shared_expert_gate.format == WeightFormat::bf16 &&
         end_of(w.router) == w.shared_expert_gate.data;
}

}  // namespace

void CudaDevice::run_step(const StepPlan& plan, const std::function<void()>& queue_step) {
  const bool decode = plan.num_rows == plan.num_sequences && plan.num_rows <= cuda::kMaxMmaRows;
  if (!decode || plan.observer != nullptr || plan.num_state_saves > 0 ||
      plan.override_index != nullptr) {
    queue_step();
    return;
  }
  const StepKey key{plan.token_ids, plan.routing_log, plan.num_rows, plan.num_logit_rows,
                    plan.page_table_stride};
  auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    // The first step of a shape runs as it is: that is how the blocks learn what follows them.
    graphs_.emplace(key, CudaGraphExec());
    queue_step();
    return;
  }
  if (found->second.get() == nullptr) {
    NIBBLE_CUDA_CHECK(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
    queue_step();
    CudaGraph graph;
    NIBBLE_CUDA_CHECK(cudaStreamEndCapture(stream_.get(), graph.out()));
    NIBBLE_CUDA_CHECK(cudaGraphInstantiate(found->second.out(), graph.get(), 0));
  }
  NIBBLE_CUDA_CHECK(cudaGraphLaunch(found->second.get(), stream_.get()));
}

bool CudaDevice::is_decode(const StepPlan& plan) const {
  return has_decode_kernels() && arithmetic() == Arithmetic::exact && plan.observer == nullptr &&
         plan.num_rows == plan.num_sequences && plan.num_rows <= cuda::kMaxMmaRows &&
         plan.num_state_saves == 0 && spec_.hidden_size == cuda::kHidden;
}

void CudaDevice::project_in(const StepPlan& plan, std::span<const PackedLinear* const> weights,
                            const float* norm_weight, ConstTensorView residual) {
  int64_t rows = 0;
  for (const PackedLinear* weight : weights) rows += weight->out_features;
  const cuda::RmsNormArgs norm{.x = residual.as<float>(),
                               .weight = norm_weight,
                               .out = scratch_.x,
                               .out_type = cuda::Element::bf16,
                               .rows = plan.num_rows,
                               .n = cuda::kHidden,
                               .eps = spec_.rms_norm_eps,
                               .row_index = nullptr};
  // Matrices of one format that lie behind each other in memory are one matrix.
  cuda::InProjArgs args{.segments = {},
                        .rows = static_cast<int32_t>(rows),
                        .h = norm.x,
                        .norm_weight = norm_weight,
                        .out = scratch_.projection,
                        .eps = spec_.rms_norm_eps};
  cuda::Segments& segments = args.segments;
  const std::byte* end = nullptr;
  int32_t row = 0;
  for (const PackedLinear* weight : weights) {
    const cuda::Format format = cuda_format(weight->format);
    row += static_cast<int32_t>(weight->out_features);
    const auto last = static_cast<size_t>(segments.count - 1);
    if (end == weight->data && segments.format[last] == format &&
        segments.scale[last] == weight->tensor_scale) {
      segments.end[last] = row;
    } else {
      const auto i = static_cast<size_t>(segments.count++);
      segments.data[i] = weight->data;
      segments.format[i] = format;
      segments.end[i] = row;
      segments.scale[i] = weight->tensor_scale;
    }
    end = end_of(*weight);
  }
  if (plan.num_rows == 1) {
    cuda::decode_in_proj(args, stream_.get());
    return;
  }
  const bool with_norm = plan.num_rows <= cuda::kNormRows;
  if (!with_norm) cuda::decode_norm(norm, stream_.get());
  cuda::decode_rows({.segments = segments,
                     .rows = args.rows,
                     .x = with_norm ? nullptr : scratch_.x,
                     .h = norm.x,
                     .norm_weight = norm_weight,
                     .eps = spec_.rms_norm_eps,
                     .m = plan.num_rows,
                     .out = scratch_.projection,
                     .out_stride = rows},
                    stream_.get());
}

cuda::WindowArgs CudaDevice::window_of(const StepPlan& plan, const StateLayer* state) const {
  return {.step = step_of(plan),
          .projection = scratch_.projection,
          .projection_stride = 12352,
          .window = state == nullptr ? nullptr : state->conv_window,
          .window_stride_bytes = state == nullptr ? 0 : state->conv_stride_bytes};
}

/// The mixer's output projection onto the residual stream; state: of a DeltaNet layer.
void CudaDevice::project_out(const StepPlan& plan, const PackedLinear& weight,
                             const StateLayer* state, TensorView out) {
  const bool is_delta = state != nullptr;
  if (plan.num_rows <= cuda::kOutProjRows) {
    cuda::decode_out_proj({.weight = weight.data,
                           .format = cuda_format(weight.format),
                           .scale = weight.tensor_scale,
                           .x = is_delta ? nullptr : scratch_.x,
                           .gated = scratch_.gated,
                           .squares = scratch_.squares,
                           .h = out.as<float>(),
                           .rows = plan.num_rows,
                           .eps = spec_.rms_norm_eps,
                           .window = window_of(plan, state)},
                          stream_.get());
    return;
  }
  if (is_delta) {
    cuda::decode_gated({.gated = scratch_.gated,
                        .squares = scratch_.squares,
                        .out = scratch_.x,
                        .rows = plan.num_rows,
                        .eps = spec_.rms_norm_eps,
                        .window = window_of(plan, state)},
                       stream_.get());
  }
  cuda::linear_mma({.x = scratch_.x,
                    .x_type = cuda::Element::bf16,
                    .weight = {cuda_format(weight.format), weight.data, cuda::kHidden, cuda::kMixer,
                               weight.tensor_scale},
                    .out = out.data(),
                    .out_type = cuda::Element::f32,
                    .out_stride = cuda::kHidden,
                    .accumulate = true,
                    .m = plan.num_rows},
                   stream_.get(), true);
}

void CudaDevice::attention_block(const StepPlan& plan, const AttentionWeights& weights,
                                 const KvLayer& cache, ConstTensorView residual, TensorView out,
                                 Accumulate accumulate) {
  follow({&weights.q_proj, &weights.k_proj, &weights.v_proj}, weights.o_proj);
  if (can_prefill(plan, weights, cache)) {
    prefill_attention_block(plan, weights, cache, residual, out, accumulate);
    return;
  }
  if (!is_decode(plan) || !fits(weights, cache, spec_) || residual.data() != out.data()) {
    Device::attention_block(plan, weights, cache, residual, out, accumulate);
    return;
  }
  const std::array<const PackedLinear*, 3> projections{&weights.q_proj, &weights.k_proj,
                                                       &weights.v_proj};
  project_in(plan, projections, weights.input_norm, residual);
  cuda::decode_attention(
      {.step = step_of(plan),
       .cache = {cache.k, cache.v, cuda_element(cache.dtype), cache.k_scale, cache.v_scale},
       .projection = scratch_.projection,
       .projection_stride = 9216,
       .q_norm = weights.q_norm,
       .k_norm = weights.k_norm,
       .inverse_frequencies = scratch_.rope_frequencies,
       .mrope_section = {spec_.mrope_section[0], spec_.mrope_section[1], spec_.mrope_section[2]},
       .eps = spec_.rms_norm_eps,
       .partial = scratch_.attention,
       .num_splits = cuda::attention_splits(plan.num_rows, plan.num_sequences, 2),
       .out = scratch_.x},
      stream_.get());
  project_out(plan, weights.o_proj, nullptr, out);
}

void CudaDevice::delta_net_block(const StepPlan& plan, const DeltaNetWeights& weights,
                                 const StateLayer& cache, ConstTensorView residual, TensorView out,
                                 Accumulate accumulate) {
  follow({&weights.in_proj_qkv, &weights.in_proj_z}, weights.out_proj);
  if (can_prefill(plan, weights, cache)) {
    prefill_delta_block(plan, weights, cache, residual, out, accumulate);
    return;
  }
  if (!is_decode(plan) || !fits(weights, cache) || residual.data() != out.data()) {
    Device::delta_net_block(plan, weights, cache, residual, out, accumulate);
    return;
  }
  const std::array<const PackedLinear*, 4> projections{&weights.in_proj_qkv, &weights.in_proj_z,
                                                       &weights.in_proj_b, &weights.in_proj_a};
  project_in(plan, projections, weights.input_norm, residual);
  cuda::decode_delta({.step = step_of(plan),
                      .projection = scratch_.projection,
                      .projection_stride = 12352,
                      .conv = weights.conv,
                      .window = cache.conv_window,
                      .window_stride_bytes = cache.conv_stride_bytes,
                      .a_log = weights.a_log,
                      .dt_bias = weights.dt_bias,
                      .norm_weight = weights.norm,
                      .state = cache.recurrent,
                      .state_stride = cache.recurrent_stride,
                      .gated = scratch_.gated,
                      .squares = scratch_.squares},
                     stream_.get());
  project_out(plan, weights.out_proj, &cache, out);
}

/// A mixer begins: its input projection follows the mixer whose output projection came last. Kept
/// are the bytes that lie behind each other.
void CudaDevice::follow(std::initializer_list<const PackedLinear*> projection,
                        const PackedLinear& out) {
  std::span<const std::byte> bytes;
  for (const PackedLinear* weight : projection) {
    const bool known = weight->format == WeightFormat::bf16 || weight->format == WeightFormat::fp8;
    if (!known || (!bytes.empty() && bytes.data() + bytes.size() != weight->data)) break;
    const std::byte* begin = bytes.empty() ? weight->data : bytes.data();
    bytes = {begin, static_cast<size_t>(end_of(*weight) - begin)};
  }
  if (last_out_ != nullptr) next_projection_[last_out_] = bytes;
  last_out_ = out.data;
}

/// What the router may pull into L2 of the next input projection: a quarter of what that will not
/// have asked for by itself; more would hold up the experts' weights.
cuda::Later CudaDevice::prefetch() const {
  const auto next = next_projection_.find(last_out_);
  if (next == next_projection_.end()) return {};
  const size_t early = static_cast<size_t>(info_.multiprocessors) * cuda::kInProjEarlyBytes;
  const std::span<const std::byte> weights = next->second;
  if (weights.size() <= early) return {};
  return {reinterpret_cast<const uint8_t*>(weights.data()) + early, (weights.size() - early) / 4};
}

void CudaDevice::fused_experts(const StepPlan& plan, const MoeWeights& weights, TensorView hidden) {
  cuda::decode_router({.weight = weights.router.data,
                       .h = hidden.as<float>(),
                       .norm_weight = weights.post_norm,
                       .x = scratch_.x,
                       .logits = scratch_.router_logits,
                       .eps = spec_.rms_norm_eps,
                       .later = prefetch()},
                      stream_.get());
  const cuda::ExpertsArgs experts{
      .gate_up = cuda_bank(weights.gate_up),
      .down = cuda_bank(weights.down),
      .shared_gate_up = cuda_bank(weights.shared_gate_up),
      .shared_down = cuda_bank(weights.shared_down),
      .logits = scratch_.router_logits,
      .x = scratch_.x,
      .act = scratch_.act,
      .h = hidden.as<float>(),
      .experts_out =
          plan.routing_log == nullptr ? nullptr : plan.routing_log + weights.layer * cuda::kRouted};
  cuda::decode_gate_up(experts, stream_.get());
  cuda::decode_down(experts, stream_.get());
}

void CudaDevice::fused_experts_rows(const StepPlan& plan, const MoeWeights& weights,
                                    TensorView hidden) {
  cuda::decode_router_rows(
      {.weight = weights.router.data,
       .h = hidden.as<float>(),
       .norm_weight = weights.post_norm,
       .x = scratch_.x,
       .logits = scratch_.router_logits,
       .rows = plan.num_rows,
       .eps = spec_.rms_norm_eps,
       .table = scratch_.expert_rows,
       .experts_out = plan.routing_log == nullptr
                          ? nullptr
                          : plan.routing_log + weights.layer * plan.num_rows * cuda::kRouted},
      stream_.get());
  const cuda::ExpertRowsArgs experts{.gate_up = cuda_bank(weights.gate_up),
                                     .down = cuda_bank(weights.down),
                                     .shared_gate_up = cuda_bank(weights.shared_gate_up),
                                     .shared_down = cuda_bank(weights.shared_down),
                                     .table = scratch_.expert_rows,
                                     .x = scratch_.x,
                                     .act = scratch_.act,
                                     .outputs = scratch_.slot_outputs,
                                     .h = hidden.as<float>(),
                                     .rows = plan.num_rows};
  cuda::decode_gate_up_rows(experts, stream_.get());
  cuda::decode_down_rows(experts, stream_.get());
  cuda::decode_combine_rows(experts, stream_.get());
}

void CudaDevice::moe_block(const StepPlan& plan, const MoeWeights& weights,
                           ConstTensorView residual, TensorView out, Accumulate accumulate) {
  done_norm_ = {};
  // Only the grouped products know E4M3 operands.
  const bool grouped = plan.num_rows > cuda::kMaxMmaRows || rounds_to_fp8(plan);
  const bool kernels = grouped ? has_wgmma() : has_decode_kernels();
  const bool fused = kernels && arithmetic() == Arithmetic::exact && plan.observer == nullptr &&
                     spec_.hidden_size == cuda::kHidden && fits(weights) &&
                     residual.data() == out.data() && !rounds_to_fp4(plan);
  if (!fused) {
    Device::moe_block(plan, weights, residual, out, accumulate);
  } else if (grouped) {
    grouped_experts(plan, weights, out);
  } else if (plan.num_rows == 1) {
    fused_experts(plan, weights, out);
  } else {
    fused_experts_rows(plan, weights, out);
  }
}

void CudaDevice::head(const StepPlan& plan, const HeadWeights& weights, ConstTensorView hidden,
                      TensorView normed_out, int64_t first, TensorView logits) {
  last_out_ = nullptr;
  const cuda::Format format = cuda_format(weights.lm_head.format);
  const cuda::LinearArgs args{.x = scratch_.x,
                              .x_type = cuda::Element::bf16,
                              .weight = {format, weights.lm_head.data, weights.lm_head.out_features,
                                         weights.lm_head.in_features, weights.lm_head.tensor_scale},
                              .out = logits.data(),
                              .out_type = cuda::Element::f32,
                              .out_stride = weights.lm_head.out_features,
                              .accumulate = false,
                              .m = logits.rows()};
  if (!is_decode(plan) || !normed_out.empty() || !cuda::can_linear_mma(args)) {
    Device::head(plan, weights, hidden, normed_out, first, logits);
    return;
  }
  cuda::decode_norm({.x = hidden.as<float>(),
                     .weight = weights.final_norm,
                     .out = scratch_.x,
                     .out_type = cuda::Element::bf16,
                     .rows = logits.rows(),
                     .n = cuda::kHidden,
                     .eps = spec_.rms_norm_eps,
                     .row_index = plan.logit_rows + first},
                    stream_.get());
  if (args.m == 1 && format != cuda::Format::fp8) {
    cuda::decode_head({.weight = weights.lm_head.data,
                       .format = format,
                       .scale = weights.lm_head.tensor_scale,
                       .n = weights.lm_head.out_features,
                       .x = scratch_.x,
                       .logits = logits.as<float>()},
                      stream_.get());
  } else if (format == cuda::Format::bf16 && args.weight.n % 16 == 0) {
    cuda::decode_rows({.segments = {.data = {args.weight.data},
                                    .format = {format},
                                    .end = {static_cast<int32_t>(args.weight.n)},
                                    .scale = {1.0f},
                                    .count = 1},
                       .rows = static_cast<int32_t>(args.weight.n),
                       .x = scratch_.x,
                       .h = nullptr,
                       .norm_weight = nullptr,
                       .eps = 0,
                       .m = static_cast<int32_t>(args.m),
                       .out = logits.as<float>(),
                       .out_stride = args.out_stride},
                      stream_.get());
  } else {
    cuda::linear_mma(args, stream_.get(), true);
  }
}

}  // namespace nibble::device
