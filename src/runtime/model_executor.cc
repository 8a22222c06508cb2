// The only file that knows model, device and runtime together.
#include "runtime/model_executor.h"

#include "model/loaded_model.h"
#include "model/weight_source.h"

#include <chrono>
#include <functional>
#include <utility>

namespace nibble::runtime {

namespace {

size_t hidden_bytes(const formats::ModelConfig& config, const StepCapacity& capacity) {
  return static_cast<size_t>(capacity.rows) * static_cast<size_t>(config.hidden_size) *
         sizeof(float);
}

}  // namespace

CacheGeometry cache_geometry(const formats::ModelConfig& config, const model::ModelWeights* weights,
                             DType kv_dtype, DType activation_dtype) {
  CacheGeometry geometry;
  for (const formats::LayerType type : config.layer_types) {
    geometry.layers.push_back(type == formats::LayerType::full_attention ? CacheKind::kv
                                                                         : CacheKind::state);
  }
  geometry.num_kv_heads = config.num_key_value_heads;
  geometry.head_dim = config.head_dim;
  geometry.kv_dtype = kv_dtype;
  geometry.num_value_heads = config.linear_num_value_heads;
  geometry.key_head_dim = config.linear_key_head_dim;
  geometry.value_head_dim = config.linear_value_head_dim;
  geometry.conv_channels = config.linear_conv_size();
  geometry.conv_columns = config.linear_conv_kernel_dim - 1;
  geometry.conv_dtype = activation_dtype;
  if (weights == nullptr) return geometry;
  for (const model::LayerWeights& layer : weights->layers) {
    geometry.k_scales.push_back(layer.k_scale);
    geometry.v_scales.push_back(layer.v_scale);
  }
  return geometry;
}

MemoryNeeds memory_needs(const device::Device& device, const model::WeightSource& source,
                         const StepCapacity& capacity, DType kv_dtype) {
  const formats::ModelConfig& config = source.config();
  const CacheGeometry geometry =
      cache_geometry(config, nullptr, kv_dtype, device.activation_dtype());
  MemoryNeeds needs;
  needs.weight_bytes = model::packed_model_bytes(device, source);
  needs.workspace_bytes = device.workspace_bytes(model::workspace_spec(config, capacity.rows)) +
                          StepBuffers::device_bytes(capacity) + hidden_bytes(config, capacity);
  needs.kv_page_bytes = kv_page_bytes(geometry);
  needs.state_slot_bytes = state_slot_bytes(geometry);
  needs.logits_rows = capacity.logit_rows;
  needs.vocab_size = config.vocab_size;
  needs.model_max_len = static_cast<int32_t>(config.max_position_embeddings);
  return needs;
}

ModelExecutor::ModelExecutor(device::Device& device, const model::ModelWeights& weights,
                             const ModelExecutorOptions& options)
    : device_(device), weights_(weights), options_(options), decoder_(device, model::Placement()) {}

Result<std::unique_ptr<ModelExecutor>> ModelExecutor::create(device::Device& device,
                                                             const formats::ModelConfig& config,
                                                             const model::ModelWeights& weights,
                                                             const ModelExecutorOptions& options) {
  NIBBLE_CHECK(options.vocab_limit > 0 && options.vocab_limit <= config.vocab_size, "vocab_limit",
               options.vocab_limit, config.vocab_size);
  std::unique_ptr<ModelExecutor> executor(new ModelExecutor(device, weights, options));
  NIBBLE_RETURN_IF_ERROR(executor->allocate(config));
  return executor;
}

Result<void> ModelExecutor::allocate(const formats::ModelConfig& config) {
  const StepCapacity& capacity = options_.capacity;
  NIBBLE_RETURN_IF_ERROR(device_.set_workspace(model::workspace_spec(config, capacity.rows)));
  const CacheGeometry geometry =
      cache_geometry(config, &weights_, options_.kv_dtype, device_.activation_dtype());
  NIBBLE_ASSIGN_OR_RETURN(
      caches_, CachePools::create(device_, geometry, options_.num_pages, options_.num_slots));
  NIBBLE_ASSIGN_OR_RETURN(buffers_, StepBuffers::create(device_, capacity));
  NIBBLE_ASSIGN_OR_RETURN(hidden_memory_,
                          device_.allocate(hidden_bytes(config, capacity), "residual stream"));
  hidden_ = TensorView(hidden_memory_->data(), DType::f32, {capacity.rows, config.hidden_size});
  const Shape logits_shape{capacity.logit_rows, config.vocab_size};
  NIBBLE_ASSIGN_OR_RETURN(
      logits_memory_,
      device_.allocate(static_cast<size_t>(logits_shape.elements()) * sizeof(float), "logits"));
  logits_ = TensorView(logits_memory_->data(), DType::f32, logits_shape);
  return {};
}

Result<void> ModelExecutor::run(const Step& step, std::span<device::SampleResult> results) {
  NIBBLE_CHECK(results.size() == step.samples.size(), "one result per sample", results.size(),
               step.samples.size());
  device::StepPlan plan = buffers_->load(step);
  plan.routing_log = routing_log_;
  const TensorView hidden = hidden_.slice_rows(0, plan.num_rows);
  const TensorView logits = logits_.slice_rows(0, plan.num_logit_rows);
  last_logits_ = logits;
  const auto queue_step = [&] {
    decoder_.forward(plan, weights_, caches_->layers(), hidden);
    if (plan.num_logit_rows > 0) decoder_.head(plan, weights_, hidden, 0, logits);
  };
  device_.run_step(plan, std::cref(queue_step));  // a copy of the lambda would be allocated
  if (plan.num_logit_rows > 0) {
    device_.sample(buffers_->sample_plan(options_.vocab_limit), logits, results.data());
  }
  device_.synchronize();
  return {};
}

double ModelExecutor::seconds_of(const device::StepPlan& plan, int repetitions,
                                 const std::function<void()>& queue) {
  using Clock = std::chrono::steady_clock;
  const TensorView hidden = hidden_.slice_rows(0, plan.num_rows);
  decoder_.embed(plan, weights_, hidden);
  queue();  // untimed
  device_.synchronize();
  const auto started = Clock::now();
  for (int i = 0; i < repetitions; ++i) queue();
  device_.synchronize();
  return std::chrono::duration<double>(Clock::now() - started).count() / repetitions;
}

std::vector<BlockTime> ModelExecutor::time_blocks(const Step& step, int repetitions) {
  const device::StepPlan plan = buffers_->load(step);
  const TensorView hidden = hidden_.slice_rows(0, plan.num_rows);
  const auto layers = caches_->layers();
  int attention = 0, delta_net = 0;
  for (const model::LayerWeights& layer : weights_.layers) {
    (layer.type == formats::LayerType::full_attention ? attention : delta_net) += 1;
  }
  const auto mixers = [&](formats::LayerType type) {
    for (size_t i = 0; i < layers.size(); ++i) {
      const model::LayerWeights& w = weights_.layers[i];
      if (w.type != type) continue;
      if (type == formats::LayerType::full_attention) {
        device_.attention_block(plan, w.attention, layers[i].kv, hidden, hidden,
                                device::Accumulate::add);
      } else {
        device_.delta_net_block(plan, w.delta_net, layers[i].state, hidden, hidden,
                                device::Accumulate::add);
      }
    }
  };
  const auto time = [&](const std::function<void()>& queue) {
    return seconds_of(plan, repetitions, queue);
  };
  std::vector<BlockTime> out;
  out.push_back(
      {"attention", attention, time([&] { mixers(formats::LayerType::full_attention); })});
  out.push_back(
      {"DeltaNet", delta_net, time([&] { mixers(formats::LayerType::linear_attention); })});
  out.push_back({"experts", attention + delta_net, time([&] {
                   for (const model::LayerWeights& w : weights_.layers) {
                     device_.moe_block(plan, w.moe, hidden, hidden, device::Accumulate::add);
                   }
                 })});
  if (plan.num_logit_rows > 0) {
    const TensorView logits = logits_.slice_rows(0, plan.num_logit_rows);
    out.push_back({"head", 1, time([&] { decoder_.head(plan, weights_, hidden, 0, logits); })});
  }
  return out;
}

size_t ModelExecutor::bytes() const {
  return caches_->bytes() + StepBuffers::device_bytes(options_.capacity) + hidden_memory_->bytes() +
         logits_memory_->bytes();
}

}  // namespace nibble::runtime
