// The CUDA device's operations that walk sequences: rotary, KV store, attention, convolution, delta
// rule. Kernels read the sequences from the plan's device buffers; the host knows only counts.
#include "device/cuda/cuda_device_impl.h"

namespace nibble::device {
namespace {

cuda::KvCache cache_of(const KvLayer& cache) {
  return {cache.k, cache.v, cuda_element(cache.dtype), cache.k_scale, cache.v_scale};
}

}  // namespace

void CudaDevice::qk_norm_rope(const StepPlan& plan, const AttentionWeights& weights,
                              ConstTensorView q_gate, TensorView q, TensorView gate, TensorView k) {
  cuda::QkNormRopeArgs args{
      .step = step_of(plan),
      .q_gate = q_gate.as<float>(),
      .q = q.as<float>(),
      .gate = gate.as<float>(),
      .k_in = k.as<float>(),
      .k = k.as<float>(),
      .q_stride = q_gate.row_elements(),
      .k_stride = k.row_elements(),
      .q_norm = weights.q_norm,
      .k_norm = weights.k_norm,
      .inverse_frequencies = scratch_.rope_frequencies,
      .num_heads = static_cast<int32_t>(weights.num_heads),
      .num_kv_heads = static_cast<int32_t>(weights.num_kv_heads),
      .head_dim = static_cast<int32_t>(weights.head_dim),
      .rotary_dim = static_cast<int32_t>(spec_.rotary_dim),
      .mrope_section = {spec_.mrope_section[0], spec_.mrope_section[1], spec_.mrope_section[2]},
      .eps = spec_.rms_norm_eps};
  cuda::qk_norm_rope(args, stream_.get());
}

void CudaDevice::kv_store(const StepPlan& plan, const AttentionWeights& weights,
                          const KvLayer& cache, ConstTensorView k, ConstTensorView v) {
  cuda::kv_store({.step = step_of(plan),
                  .cache = cache_of(cache),
                  .k = k.as<float>(),
                  .v = v.as<float>(),
                  .num_kv_heads = static_cast<int32_t>(weights.num_kv_heads),
                  .head_dim = static_cast<int32_t>(weights.head_dim)},
                 stream_.get());
}

int32_t CudaDevice::attention_page_capacity(int64_t max_rows) {
  return static_cast<int32_t>((4 * max_rows + kPageTokens - 1) / kPageTokens);
}

cuda::PrefillAttentionArgs CudaDevice::prefill_attention_args(const StepPlan& plan,
                                                              const AttentionWeights& weights,
                                                              const KvLayer& cache) const {
  NIBBLE_CHECK(plan.num_kv_pages > 0, "the plan counts no pages", plan.num_rows);
  return {.step = step_of(plan),
          .cache = cache_of(cache),
          .q = nullptr,
          .q_bf16 = nullptr,
          .core = nullptr,
          .gate = nullptr,
          .gate_type = cuda::Element::f32,
          .gate_stride = 0,
          .gated = nullptr,
          .num_heads = static_cast<int32_t>(weights.num_heads),
          .num_kv_heads = static_cast<int32_t>(weights.num_kv_heads),
          .num_pages = plan.num_kv_pages,
          .page_capacity = attention_page_capacity(spec_.max_rows),
          .tiles = scratch_.attention_tiles,
          .softmax = scratch_.attention_softmax};
}

void CudaDevice::attention(const StepPlan& plan, const AttentionWeights& weights,
                           const KvLayer& cache, ConstTensorView q, TensorView core) {
  const auto kv_heads = static_cast<int32_t>(weights.num_kv_heads);
  const cuda::AttentionArgs args{
      .step = step_of(plan),
      .cache = cache_of(cache),
      .q = q.as<float>(),
      .core = core.as<float>(),
      .num_heads = static_cast<int32_t>(weights.num_heads),
      .num_kv_heads = kv_heads,
      .head_dim = static_cast<int32_t>(weights.head_dim),
      .partial = scratch_.attention,
      .num_splits = cuda::attention_splits(plan.num_rows, plan.num_sequences, kv_heads),
      .exact_products = arithmetic() == Arithmetic::f32};
  if (has_wgmma() && plan.num_rows > plan.num_sequences && cuda::can_prefill_attention(args)) {
    cuda::PrefillAttentionArgs prefill = prefill_attention_args(plan, weights, cache);
    prefill.q = args.q;
    prefill.core = args.core;
    cuda::prefill_attention(prefill, stream_.get());
  } else {
    cuda::attention(args, stream_.get());
  }
}

void CudaDevice::short_conv(const StepPlan& plan, const DeltaNetWeights& weights,
                            const StateLayer& cache, ConstTensorView x, TensorView out) {
  NIBBLE_CHECK(weights.conv_kernel <= 4 && cache.conv_columns <= 16, "convolution kernel",
               weights.conv_kernel, cache.conv_columns);
  cuda::short_conv({.step = step_of(plan),
                    .x = x.data(),
                    .out = out.as<float>(),
                    .type = cuda_element(x.dtype()),
                    .weight = weights.conv,
                    .channels = x.row_elements(),
                    .kernel = static_cast<int32_t>(weights.conv_kernel),
                    .columns = static_cast<int32_t>(cache.conv_columns),
                    .window = cache.conv_window,
                    .window_stride_bytes = cache.conv_stride_bytes},
                   stream_.get());
}

void CudaDevice::gated_delta(const StepPlan& plan, const DeltaNetWeights& weights,
                             const StateLayer& cache, ConstTensorView qkv, ConstTensorView g,
                             ConstTensorView beta, TensorView core) {
  NIBBLE_CHECK(plan.num_rows <= 16384 && plan.num_sequences <= 1024, "rows of the delta rule",
               plan.num_rows, plan.num_sequences);
  cuda::gated_delta({.step = step_of(plan),
                     .qkv = qkv.as<float>(),
                     .g = g.as<float>(),
                     .beta = beta.as<float>(),
                     .core = core.as<float>(),
                     .num_key_heads = static_cast<int32_t>(weights.num_key_heads),
                     .num_value_heads = static_cast<int32_t>(weights.num_value_heads),
                     .key_head_dim = static_cast<int32_t>(weights.key_head_dim),
                     .value_head_dim = static_cast<int32_t>(weights.value_head_dim),
                     .state = cache.recurrent,
                     .state_stride = cache.recurrent_stride,
                     .scalars = scratch_.delta},
                    stream_.get());
}

}  // namespace nibble::device
