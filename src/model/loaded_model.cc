#include "model/loaded_model.h"

#include "base/thread_pool.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace nibble::model {
namespace {

using device::AttentionWeights;
using device::DeltaNetWeights;
using device::MoeWeights;
using device::PackedExperts;
using device::PackedLinear;
using formats::LayerType;
using formats::WeightFormat;

constexpr size_t kAlignment = 64;

size_t aligned(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// Which checkpoint member fills which struct member: one list for sizes and for loading.
template <typename Weights, typename Field>
struct Binding {
  Member member;
  Field Weights::*field;
};

constexpr std::array kAttentionLinears = std::to_array<Binding<AttentionWeights, PackedLinear>>({
    {Member::q_proj, &AttentionWeights::q_proj},
    {Member::k_proj, &AttentionWeights::k_proj},
    {Member::v_proj, &AttentionWeights::v_proj},
    {Member::o_proj, &AttentionWeights::o_proj},
});
constexpr std::array kAttentionVectors = std::to_array<Binding<AttentionWeights, const float*>>({
    {Member::input_norm, &AttentionWeights::input_norm},
    {Member::q_norm, &AttentionWeights::q_norm},
    {Member::k_norm, &AttentionWeights::k_norm},
});
constexpr std::array kDeltaNetLinears = std::to_array<Binding<DeltaNetWeights, PackedLinear>>({
    {Member::in_proj_qkv, &DeltaNetWeights::in_proj_qkv},
    {Member::in_proj_z, &DeltaNetWeights::in_proj_z},
    {Member::in_proj_b, &DeltaNetWeights::in_proj_b},
    {Member::in_proj_a, &DeltaNetWeights::in_proj_a},
    {Member::out_proj, &DeltaNetWeights::out_proj},
});
constexpr std::array kDeltaNetVectors = std::to_array<Binding<DeltaNetWeights, const float*>>({
    {Member::input_norm, &DeltaNetWeights::input_norm},
    {Member::conv, &DeltaNetWeights::conv},
    {Member::a_log, &DeltaNetWeights::a_log},
    {Member::dt_bias, &DeltaNetWeights::dt_bias},
    {Member::delta_norm, &DeltaNetWeights::norm},
});
constexpr std::array kMoeLinears = std::to_array<Binding<MoeWeights, PackedLinear>>({
    {Member::router, &MoeWeights::router},
    {Member::shared_expert_gate, &MoeWeights::shared_expert_gate},
});
constexpr std::array kMoeVectors = std::to_array<Binding<MoeWeights, const float*>>({
    {Member::post_norm, &MoeWeights::post_norm},
});

size_t linear_bytes(const device::Device& device, WeightFormat format, Member member,
                    const formats::ModelConfig& config) {
  const Shape shape = expected_shape(member, config);
  return aligned(device.packed_linear_bytes(format, shape[0], shape[1]));
}

size_t vector_bytes(Member member, const formats::ModelConfig& config) {
  return aligned(static_cast<size_t>(expected_shape(member, config).elements()) * sizeof(float));
}

// Packed sizes of a bank of experts (or the shared one) with its scales.
struct BankBytes {
  size_t gate_up_stride, down_stride, gate_up_scales, down_scales;
  size_t total(int64_t experts) const {
    return static_cast<size_t>(experts) * (gate_up_stride + down_stride) + gate_up_scales +
           down_scales;
  }
};

BankBytes bank_bytes(const device::Device& device, WeightFormat format, int64_t experts,
                     int64_t intermediate, int64_t hidden) {
  const auto count = static_cast<size_t>(experts);
  return {aligned(device.packed_gate_up_bytes(format, intermediate, hidden)),
          aligned(device.packed_linear_bytes(format, hidden, intermediate)),
          aligned(2 * count * sizeof(float)), aligned(count * sizeof(float))};
}

// Fills one layer's views, packing into memory that was sized by packed_layer_bytes.
class LayerPacker {
 public:
  LayerPacker(device::Device& device, WeightSource& source, std::byte* memory)
      : device_(device), source_(source), next_(memory) {}

  Result<LayerWeights> layer(int index);
  Result<PackedLinear> linear(Member member, int layer);
  Result<const float*> vector(Member member, int layer);
  std::byte* take(size_t bytes) {
    std::byte* taken = next_;
    next_ += aligned(bytes);
    return taken;
  }

 private:
  template <typename Weights, size_t kLinears, size_t kVectors>
  Result<void> members(Weights& weights, int layer,
                       const std::array<Binding<Weights, PackedLinear>, kLinears>& linears,
                       const std::array<Binding<Weights, const float*>, kVectors>& vectors) {
    for (const auto& binding : linears) {
      NIBBLE_ASSIGN_OR_RETURN(weights.*binding.field, linear(binding.member, layer));
    }
    for (const auto& binding : vectors) {
      NIBBLE_ASSIGN_OR_RETURN(weights.*binding.field, vector(binding.member, layer));
    }
    return {};
  }
  Result<void> bank(int layer, bool shared, PackedExperts& gate_up, PackedExperts& down);

  device::Device& device_;
  WeightSource& source_;
  std::byte* next_;
};

Result<PackedLinear> LayerPacker::linear(Member member, int layer) {
  NIBBLE_ASSIGN_OR_RETURN(const formats::LinearWeight weight, source_.linear(member, layer));
  std::byte* destination =
      take(device_.packed_linear_bytes(weight.format, weight.out_features, weight.in_features));
  return device_.pack_linear(weight, destination);
}

Result<const float*> LayerPacker::vector(Member member, int layer) {
  NIBBLE_ASSIGN_OR_RETURN(const std::vector<float> values, source_.vector(member, layer));
  std::byte* destination = take(values.size() * sizeof(float));
  device_.upload(destination, std::as_bytes(std::span(values)));
  return reinterpret_cast<const float*>(destination);
}

Result<void> LayerPacker::bank(int layer, bool shared, PackedExperts& gate_up,
                               PackedExperts& down) {
  const formats::ModelConfig& c = source_.config();
  const int64_t experts = shared ? 1 : c.num_experts;
  const int64_t intermediate = shared ? c.shared_expert_intermediate_size : c.moe_intermediate_size;
  const WeightFormat format = source_.expert_format(layer, shared);
  const BankBytes bytes = bank_bytes(device_, format, experts, intermediate, c.hidden_size);
  std::byte* gate_up_data = take(static_cast<size_t>(experts) * bytes.gate_up_stride);
  std::byte* down_data = take(static_cast<size_t>(experts) * bytes.down_stride);
  std::byte* gate_up_scales = take(bytes.gate_up_scales);
  std::byte* down_scales = take(bytes.down_scales);

  std::vector<float> gate_up_host, down_host;
  for (int64_t e = 0; e < experts; ++e) {
    NIBBLE_ASSIGN_OR_RETURN(const ExpertWeights expert,
                            source_.expert(layer, shared ? kSharedExpert : e));
    device_.pack_gate_up(expert.gate, expert.up,
                         gate_up_data + static_cast<size_t>(e) * bytes.gate_up_stride);
    const PackedLinear packed =
        device_.pack_linear(expert.down, down_data + static_cast<size_t>(e) * bytes.down_stride);
    gate_up_host.push_back(expert.gate.weight_scale_2);
    gate_up_host.push_back(expert.up.weight_scale_2);
    down_host.push_back(packed.tensor_scale);
  }
  device_.upload(gate_up_scales, std::as_bytes(std::span(gate_up_host)));
  device_.upload(down_scales, std::as_bytes(std::span(down_host)));
  gate_up = {format,
             experts,
             2 * intermediate,
             c.hidden_size,
             gate_up_data,
             bytes.gate_up_stride,
             reinterpret_cast<const float*>(gate_up_scales)};
  down = {format,
          experts,
          c.hidden_size,
          intermediate,
          down_data,
          bytes.down_stride,
          reinterpret_cast<const float*>(down_scales)};
  return {};
}

Result<LayerWeights> LayerPacker::layer(int index) {
  const formats::ModelConfig& c = source_.config();
  LayerWeights weights;
  weights.type = c.layer_types[static_cast<size_t>(index)];
  if (weights.type == LayerType::full_attention) {
    AttentionWeights& attention = weights.attention;
    attention.layer = index;
    attention.num_heads = c.num_attention_heads;
    attention.num_kv_heads = c.num_key_value_heads;
    attention.head_dim = c.head_dim;
    NIBBLE_RETURN_IF_ERROR(members(attention, index, kAttentionLinears, kAttentionVectors));
    NIBBLE_ASSIGN_OR_RETURN(const auto scales, source_.kv_scales(index));
    weights.k_scale = scales.first;
    weights.v_scale = scales.second;
  } else {
    DeltaNetWeights& delta_net = weights.delta_net;
    delta_net.layer = index;
    delta_net.num_key_heads = c.linear_num_key_heads;
    delta_net.num_value_heads = c.linear_num_value_heads;
    delta_net.key_head_dim = c.linear_key_head_dim;
    delta_net.value_head_dim = c.linear_value_head_dim;
    delta_net.conv_kernel = c.linear_conv_kernel_dim;
    NIBBLE_RETURN_IF_ERROR(members(delta_net, index, kDeltaNetLinears, kDeltaNetVectors));
  }
  MoeWeights& moe = weights.moe;
  moe.layer = index;
  moe.num_experts = c.num_experts;
  moe.num_experts_per_tok = c.num_experts_per_tok;
  NIBBLE_RETURN_IF_ERROR(members(moe, index, kMoeLinears, kMoeVectors));
  NIBBLE_RETURN_IF_ERROR(bank(index, false, moe.gate_up, moe.down));
  NIBBLE_RETURN_IF_ERROR(bank(index, true, moe.shared_gate_up, moe.shared_down));
  return weights;
}

// Bytes of final norm and output matrix.
size_t head_bytes(const device::Device& device, const WeightSource& source) {
  const formats::ModelConfig& c = source.config();
  return vector_bytes(Member::final_norm, c) +
         linear_bytes(device, source.format(Member::lm_head, -1), Member::lm_head, c);
}

// Bytes of the embedding table where it cannot be read in place.
size_t embedding_bytes(const device::Device& device, const WeightSource& source) {
  if (device.shares_host_memory() && source.embedding_is_mapped()) return 0;
  return aligned(
      static_cast<size_t>(expected_shape(Member::embed_tokens, source.config()).elements()) * 2);
}

template <typename Weights, size_t kLinears, size_t kVectors>
size_t member_bytes(const device::Device& device, const WeightSource& source, int layer,
                    const std::array<Binding<Weights, PackedLinear>, kLinears>& linears,
                    const std::array<Binding<Weights, const float*>, kVectors>& vectors) {
  size_t bytes = 0;
  for (const auto& binding : linears) {
    bytes +=
        linear_bytes(device, source.format(binding.member, layer), binding.member, source.config());
  }
  for (const auto& binding : vectors) bytes += vector_bytes(binding.member, source.config());
  return bytes;
}

}  // namespace

size_t packed_layer_bytes(const device::Device& device, const WeightSource& source, int layer) {
  const formats::ModelConfig& c = source.config();
  size_t bytes = member_bytes(device, source, layer, kMoeLinears, kMoeVectors);
  if (c.layer_types[static_cast<size_t>(layer)] == LayerType::full_attention) {
    bytes += member_bytes(device, source, layer, kAttentionLinears, kAttentionVectors);
  } else {
    bytes += member_bytes(device, source, layer, kDeltaNetLinears, kDeltaNetVectors);
  }
  bytes += bank_bytes(device, source.expert_format(layer, false), c.num_experts,
                      c.moe_intermediate_size, c.hidden_size)
               .total(c.num_experts);
  bytes += bank_bytes(device, source.expert_format(layer, true), 1,
                      c.shared_expert_intermediate_size, c.hidden_size)
               .total(1);
  return bytes;
}

size_t packed_model_bytes(const device::Device& device, const WeightSource& source) {
  size_t bytes = embedding_bytes(device, source) + head_bytes(device, source);
  for (int i = 0; i < source.config().num_hidden_layers; ++i)
    bytes += packed_layer_bytes(device, source, i);
  return bytes;
}

namespace {

// The parts of a model in the order they are loaded, the longest first: embedding, head, layers.
// Each has its place in memory: layers, head, embedding.
class ModelLoader {
 public:
  ModelLoader(device::Device& device, const WeightSource& source, std::byte* memory,
              ModelWeights& weights)
      : device_(device), weights_(weights) {
    const formats::ModelConfig& c = source.config();
    const auto layers = static_cast<int>(c.num_hidden_layers);
    weights_.layers.resize(static_cast<size_t>(layers));
    for (int i = 0; i < layers; ++i) {
      layers_.push_back(memory);
      memory += packed_layer_bytes(device, source, i);
    }
    head_ = memory;
    embedding_ = memory + head_bytes(device, source);
  }

  int parts() const { return static_cast<int>(layers_.size()) + 2; }
  /// Any thread, with a source of its own.
  Result<void> load(int part, WeightSource& source) {
    if (part == 0) return embedding(source);
    if (part == 1) return head(source);
    const int layer = part - 2;
    const auto index = static_cast<size_t>(layer);
    NIBBLE_ASSIGN_OR_RETURN(weights_.layers[index],
                            LayerPacker(device_, source, layers_[index]).layer(layer));
    return {};
  }

 private:
  Result<void> head(WeightSource& source) {
    LayerPacker packer(device_, source, head_);
    NIBBLE_ASSIGN_OR_RETURN(weights_.head.final_norm, packer.vector(Member::final_norm, -1));
    NIBBLE_ASSIGN_OR_RETURN(weights_.head.lm_head, packer.linear(Member::lm_head, -1));
    return {};
  }
  Result<void> embedding(WeightSource& source) {
    NIBBLE_ASSIGN_OR_RETURN(const ConstTensorView table, source.embedding());
    weights_.embed_tokens = table;
    if (embedding_bytes(device_, source) == 0) return {};
    device_.upload(embedding_, {table.data(), table.bytes()});
    weights_.embed_tokens = ConstTensorView(embedding_, table.dtype(), table.shape());
    return {};
  }

  device::Device& device_;
  ModelWeights& weights_;
  std::vector<std::byte*> layers_;
  std::byte* head_;
  std::byte* embedding_;
};

const float* input_norm(const LayerWeights& layer) {
  return layer.type == formats::LayerType::full_attention ? layer.attention.input_norm
                                                          : layer.delta_net.input_norm;
}

// The first error of several threads; the others stop at their next part.
class FirstError {
 public:
  void set(Error error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    is_set_ = true;
  }
  bool is_set() const { return is_set_; }
  Result<void> result() const { return error_ ? Result<void>(*error_) : Result<void>(); }

 private:
  std::mutex mutex_;
  std::optional<Error> error_;
  std::atomic<bool> is_set_{false};
};

}  // namespace

Result<std::unique_ptr<LoadedModel>> LoadedModel::load(device::Device& device, WeightSource& source,
                                                       const LoadProgress& progress) {
  auto model = std::unique_ptr<LoadedModel>(new LoadedModel);
  NIBBLE_ASSIGN_OR_RETURN(model->memory_,
                          device.allocate(packed_model_bytes(device, source), "weights"));
  ModelLoader loader(device, source, model->memory_->data(), model->weights_);
  const int parts = loader.parts();
  ThreadPool pool(std::min(device.pack_threads(), parts), {});
  std::vector<std::unique_ptr<WeightSource>> sources;
  for (int i = 0; i < pool.num_threads(); ++i) sources.push_back(source.fork());
  std::atomic<int> next{0};
  FirstError error;
  pool.parallel_for(parts, [&](int64_t, int worker) {
    const int part = next++;
    if (error.is_set()) return;
    if (worker == 0 && !progress(part, parts)) {
      error.set({ErrorCode::cancelled, "loading was interrupted"});
      return;
    }
    const Result<void> loaded = loader.load(part, *sources[static_cast<size_t>(worker)]);
    if (!loaded.ok()) error.set(loaded.error());
  });
  device.synchronize();
  NIBBLE_RETURN_IF_ERROR(error.result());
  std::vector<LayerWeights>& layers = model->weights_.layers;
  for (size_t i = 1; i < layers.size(); ++i) layers[i - 1].moe.next_norm = input_norm(layers[i]);
  progress(parts, parts);
  return model;
}

Result<LoadedLayer> LoadedLayer::load(device::Device& device, WeightSource& source, int layer) {
  LoadedLayer loaded;
  const std::string purpose = "weights of layer " + std::to_string(layer);
  NIBBLE_ASSIGN_OR_RETURN(loaded.memory_,
                          device.allocate(packed_layer_bytes(device, source, layer), purpose));
  NIBBLE_ASSIGN_OR_RETURN(loaded.weights_,
                          LayerPacker(device, source, loaded.memory_->data()).layer(layer));
  device.synchronize();
  return loaded;
}

Result<LoadedHead> LoadedHead::load(device::Device& device, WeightSource& source) {
  LoadedHead loaded;
  NIBBLE_ASSIGN_OR_RETURN(loaded.memory_,
                          device.allocate(head_bytes(device, source), "weights of the head"));
  LayerPacker packer(device, source, loaded.memory_->data());
  NIBBLE_ASSIGN_OR_RETURN(loaded.weights_.final_norm, packer.vector(Member::final_norm, -1));
  NIBBLE_ASSIGN_OR_RETURN(loaded.weights_.lm_head, packer.linear(Member::lm_head, -1));
  device.synchronize();
  return loaded;
}

device::WorkspaceSpec workspace_spec(const formats::ModelConfig& c, int64_t max_rows) {
  device::WorkspaceSpec spec;
  spec.max_rows = max_rows;
  spec.hidden_size = c.hidden_size;
  spec.vocab_size = c.vocab_size;
  spec.attention_heads = c.num_attention_heads;
  spec.attention_kv_heads = c.num_key_value_heads;
  spec.head_dim = c.head_dim;
  spec.rotary_dim = c.rotary_dim();
  spec.key_heads = c.linear_num_key_heads;
  spec.value_heads = c.linear_num_value_heads;
  spec.key_head_dim = c.linear_key_head_dim;
  spec.value_head_dim = c.linear_value_head_dim;
  spec.num_experts = c.num_experts;
  spec.num_experts_per_tok = c.num_experts_per_tok;
  spec.moe_intermediate_size = c.moe_intermediate_size;
  spec.shared_intermediate_size = c.shared_expert_intermediate_size;
  spec.rope_theta = c.rope_theta;
  for (size_t axis = 0; axis < 3; ++axis) {
    spec.mrope_section[axis] = static_cast<int32_t>(c.mrope_section[axis]);
  }
  spec.rms_norm_eps = static_cast<float>(c.rms_norm_eps);
  return spec;
}

}  // namespace nibble::model
