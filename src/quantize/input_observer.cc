#include "quantize/input_observer.h"

#include "formats/bf16.h"
#include "formats/nvfp4_encode.h"
#include "quantize/calibration.h"
#include "quantize/member_table.h"
#include "quantize/quantizer_names.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace nibble::quantize {
namespace {

using model::Member;

// Which linear layers read a tapped tensor.
struct Tap {
  std::string_view name;
  formats::LayerType type;  // where it occurs, unless everywhere
  bool everywhere;
  std::span<const Member> members;
};

constexpr std::array kAttentionIn = {Member::q_proj, Member::k_proj, Member::v_proj};
constexpr std::array kAttentionOut = {Member::o_proj};
constexpr std::array kDeltaIn = {Member::in_proj_qkv, Member::in_proj_z, Member::in_proj_a,
                                 Member::in_proj_b};
constexpr std::array kDeltaOut = {Member::out_proj};
constexpr std::array kMlpIn = {Member::expert_gate, Member::shared_gate, Member::shared_up};
constexpr std::array kExpertsDown = {Member::expert_down};
constexpr std::array kSharedDown = {Member::shared_down};
constexpr std::array kHead = {Member::lm_head};

constexpr auto kFull = formats::LayerType::full_attention;
constexpr auto kLinear = formats::LayerType::linear_attention;
constexpr std::array kTaps = std::to_array<Tap>({
    {"in_norm", kFull, false, kAttentionIn},
    {"attn.gated", kFull, false, kAttentionOut},
    {"in_norm", kLinear, false, kDeltaIn},
    {"gdn.normed", kLinear, false, kDeltaOut},
    {"post_norm", kFull, true, kMlpIn},
    {"moe.slots", kFull, true, kExpertsDown},
    {"moe.shared_slots", kFull, true, kSharedDown},
});

float value_at(ConstTensorView tensor, int64_t index) {
  return tensor.dtype() == DType::bf16 ? formats::bf16_to_f32(tensor.as<uint16_t>()[index])
                                       : tensor.as<float>()[index];
}

float largest_in(ConstTensorView tensor) {
  float out = 0.0f;
  for (int64_t i = 0; i < tensor.shape().elements(); ++i) {
    out = formats::max_or_nan(out, std::fabs(value_at(tensor, i)));
  }
  return out;
}

std::vector<float> widened(ConstTensorView tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.shape().elements()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = value_at(tensor, static_cast<int64_t>(i));
  return out;
}

// Row `row` of a buffer of rows.
std::span<const float> row_of(const std::vector<float>& values, size_t row, int64_t columns) {
  return std::span(values).subspan(row * static_cast<size_t>(columns),
                                   static_cast<size_t>(columns));
}

}  // namespace

InputObserver::InputObserver(const formats::ModelConfig& config, const model::NamePrefix& prefix,
                             const CalibrationRequest& request)
    : config_(config), prefix_(prefix), request_(request) {}

void InputObserver::start_layer(int layer, LayerStatistics& out) {
  layer_ = layer;
  out_ = &out;
  kept_ = Result<void>();
  sees_noise_ = false;
  seen_.assign(static_cast<size_t>(config_.num_experts), false);
  if (request_.gathered.inputs) out.inputs = LayerInputs(config_, request_.scratch + "inputs");
  if (request_.gathered.moments) start_moments();
}

void InputObserver::start_moments() {
  const auto experts = static_cast<size_t>(config_.num_experts);
  const bool full = config_.layer_types[static_cast<size_t>(layer_)] == kFull;
  const auto inputs = [&](Member member) {
    return BlockMoments(model::expected_shape(member, config_)[1] / 16 * 16);
  };
  LayerMoments& moments = out_->moments;
  moments.mixer_in = inputs(Member::q_proj);
  moments.mixer_out = inputs(full ? Member::o_proj : Member::out_proj);
  moments.mlp_in = inputs(Member::shared_gate);
  moments.shared_down = inputs(Member::shared_down);
  moments.experts_down = inputs(Member::expert_down);
  moments.expert_in.assign(experts, inputs(Member::expert_gate));
  moments.expert_down.assign(experts, inputs(Member::expert_down));
}

Result<void> InputObserver::finish_layer() {
  out_->experts_seen = std::count(seen_.begin(), seen_.end(), true);
  out_ = nullptr;
  return kept_;
}

void InputObserver::start_noise() {
  if (out_ == nullptr) return;
  sees_noise_ = true;
  out_->inputs.start_noise();
}

void InputObserver::observe(int layer, std::string_view name, ConstTensorView tensor) {
  if (layer < 0) return;
  if (request_.gathered.inputs && kept_.ok()) kept_ = out_->inputs.add(name, tensor);
  if (sees_noise_) return;
  const auto type = config_.layer_types[static_cast<size_t>(layer_)];
  for (const Tap& tap : kTaps) {
    if (tap.name == name && (tap.everywhere || tap.type == type)) raise(tap.members, tensor);
  }
  if (name == "attn.k" || name == "attn.v") {
    const Member member = name == "attn.k" ? Member::k_proj : Member::v_proj;
    out_->maxima.raise(kv_quantizer(prefix_, member, layer_), largest_in(tensor));
  }
  if (name == "moe.experts") remember_experts(tensor);
  if (name == "post_norm" && request_.force_all_experts) {
    forced_rows_ = Tensor(tensor.dtype(), tensor.shape());
    std::memcpy(forced_rows_.view().data(), tensor.data(), tensor.bytes());
  }
  if (request_.gathered.moments) add_moments(name, tensor);
}

void InputObserver::observe_forced_slots(ConstTensorView slots) {
  raise(kExpertsDown, slots);
}

void InputObserver::start_head(LayerStatistics& out) {
  layer_ = kOutsideLayers;
  out_ = &out;
  sees_noise_ = false;
  if (request_.gathered.inputs) out.inputs = LayerInputs(config_, request_.scratch + "inputs");
  if (request_.gathered.moments) out.moments.mixer_in = BlockMoments(config_.hidden_size);
}

Result<void> InputObserver::observe_head_input(ConstTensorView rows) {
  if (!sees_noise_) raise(kHead, rows);
  if (request_.gathered.moments && !sees_noise_) {
    const std::vector<float> values = widened(rows);
    for (size_t row = 0; row < static_cast<size_t>(rows.rows()); ++row) {
      out_->moments.mixer_in.add(row_of(values, row, config_.hidden_size), 1);
    }
  }
  return request_.gathered.inputs ? out_->inputs.add("in_norm", rows) : Result<void>();
}

void InputObserver::raise(std::span<const Member> members, ConstTensorView tensor) {
  const float magnitude = largest_in(tensor);
  for (const Member member : members) {
    out_->maxima.raise(input_quantizer(prefix_, member, layer_), magnitude);
  }
}

void InputObserver::remember_experts(ConstTensorView experts) {
  const int32_t* chosen = experts.as<int32_t>();
  experts_.assign(chosen, chosen + experts.shape().elements());
  for (const int32_t expert : experts_) seen_[static_cast<size_t>(expert)] = true;
}

// Rows of a step, each with weight 1; the routed experts' by the router's choice.
void InputObserver::add_moments(std::string_view name, ConstTensorView tensor) {
  if (name == "moe.weights") {
    expert_weights_ = widened(tensor);
    add_expert_inputs();
  }
  if (name == "moe.slots") add_expert_slots(tensor);
  BlockMoments* target = nullptr;
  if (name == "in_norm") target = &out_->moments.mixer_in;
  if (name == "attn.gated" || name == "gdn.normed") target = &out_->moments.mixer_out;
  if (name == "post_norm") target = &out_->moments.mlp_in;
  if (name == "moe.shared_slots") target = &out_->moments.shared_down;
  if (target == nullptr) return;
  std::vector<float> values = widened(tensor);
  const auto rows = values.size() / static_cast<size_t>(target->columns());
  for (size_t row = 0; row < rows; ++row) target->add(row_of(values, row, target->columns()), 1);
  if (name == "post_norm") mlp_rows_ = std::move(values);
}

void InputObserver::add_expert_inputs() {
  const auto slots = static_cast<size_t>(config_.num_experts_per_tok);
  for (size_t i = 0; i < experts_.size(); ++i) {
    const double g = expert_weights_[i];
    out_->moments.expert_in[static_cast<size_t>(experts_[i])].add(
        row_of(mlp_rows_, i / slots, config_.hidden_size), g * g);
  }
}

void InputObserver::add_expert_slots(ConstTensorView slots) {
  const std::vector<float> values = widened(slots);
  for (size_t i = 0; i < experts_.size(); ++i) {
    const auto row = row_of(values, i, config_.moe_intermediate_size);
    const double g = expert_weights_[i];
    out_->moments.expert_down[static_cast<size_t>(experts_[i])].add(row, g * g);
    out_->moments.experts_down.add(row, g * g);
  }
}

}  // namespace nibble::quantize
