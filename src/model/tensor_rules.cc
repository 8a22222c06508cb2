#include "model/tensor_rules.h"

#include "base/check.h"

#include <algorithm>
#include <charconv>

namespace nibble::model {
namespace {

using enum TensorKind;
using enum Scope;

constexpr std::array kRules = std::to_array<TensorRule>({
    {Member::embed_tokens, "embed_tokens", ".weight", plain, global, ShardAxis::rows},
    {Member::final_norm, "norm", ".weight", plain, global, ShardAxis::none},
    {Member::lm_head, "lm_head", ".weight", linear, global, ShardAxis::rows},
    {Member::input_norm, "layers.{L}.input_layernorm", ".weight", plain, every_layer,
     ShardAxis::none},
    {Member::post_norm, "layers.{L}.post_attention_layernorm", ".weight", plain, every_layer,
     ShardAxis::none},
    {Member::router, "layers.{L}.mlp.gate", ".weight", linear, every_layer, ShardAxis::none},
    {Member::experts_gate_up, "layers.{L}.mlp.experts.gate_up_proj", "", bank, every_layer,
     ShardAxis::experts},
    {Member::experts_down, "layers.{L}.mlp.experts.down_proj", "", bank, every_layer,
     ShardAxis::experts},
    {Member::expert_gate, "layers.{L}.mlp.experts.{E}.gate_proj", ".weight", linear, every_layer,
     ShardAxis::experts},
    {Member::expert_up, "layers.{L}.mlp.experts.{E}.up_proj", ".weight", linear, every_layer,
     ShardAxis::experts},
    {Member::expert_down, "layers.{L}.mlp.experts.{E}.down_proj", ".weight", linear, every_layer,
     ShardAxis::experts},
    {Member::shared_gate, "layers.{L}.mlp.shared_expert.gate_proj", ".weight", linear, every_layer,
     ShardAxis::rows},
    {Member::shared_up, "layers.{L}.mlp.shared_expert.up_proj", ".weight", linear, every_layer,
     ShardAxis::rows},
    {Member::shared_down, "layers.{L}.mlp.shared_expert.down_proj", ".weight", linear, every_layer,
     ShardAxis::columns},
    {Member::shared_expert_gate, "layers.{L}.mlp.shared_expert_gate", ".weight", linear,
     every_layer, ShardAxis::none},
    {Member::in_proj_qkv, "layers.{L}.linear_attn.in_proj_qkv", ".weight", linear, linear_layers,
     ShardAxis::rows},
    {Member::in_proj_z, "layers.{L}.linear_attn.in_proj_z", ".weight", linear, linear_layers,
     ShardAxis::rows},
    {Member::in_proj_b, "layers.{L}.linear_attn.in_proj_b", ".weight", linear, linear_layers,
     ShardAxis::rows},
    {Member::in_proj_a, "layers.{L}.linear_attn.in_proj_a", ".weight", linear, linear_layers,
     ShardAxis::rows},
    {Member::conv, "layers.{L}.linear_attn.conv1d", ".weight", plain, linear_layers,
     ShardAxis::rows},
    {Member::a_log, "layers.{L}.linear_attn.A_log", "", plain, linear_layers, ShardAxis::rows},
    {Member::dt_bias, "layers.{L}.linear_attn.dt_bias", "", plain, linear_layers, ShardAxis::rows},
    {Member::delta_norm, "layers.{L}.linear_attn.norm", ".weight", plain, linear_layers,
     ShardAxis::none},
    {Member::out_proj, "layers.{L}.linear_attn.out_proj", ".weight", linear, linear_layers,
     ShardAxis::columns},
    {Member::q_proj, "layers.{L}.self_attn.q_proj", ".weight", linear, full_layers,
     ShardAxis::rows},
    {Member::k_proj, "layers.{L}.self_attn.k_proj", ".weight", linear, full_layers,
     ShardAxis::rows},
    {Member::v_proj, "layers.{L}.self_attn.v_proj", ".weight", linear, full_layers,
     ShardAxis::rows},
    {Member::o_proj, "layers.{L}.self_attn.o_proj", ".weight", linear, full_layers,
     ShardAxis::columns},
    {Member::q_norm, "layers.{L}.self_attn.q_norm", ".weight", plain, full_layers, ShardAxis::none},
    {Member::k_norm, "layers.{L}.self_attn.k_norm", ".weight", plain, full_layers, ShardAxis::none},
});

// Below self_attn, or below one of its projections (compressed-tensors: output_scale).
constexpr std::array<std::string_view, 6> kKvScales = {".k_scale", ".v_scale", ".q_scale",
                                                       ".k_bias",  ".v_bias",  ".q_bias"};

// Reads a decimal index from the front of `text`; false when there is none.
bool take_index(std::string_view& text, int64_t& index) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), index);
  if (failure != std::errc() || index < 0) return false;
  text.remove_prefix(static_cast<size_t>(end - text.data()));
  return true;
}

// Matches `pattern` at the front of `text`, filling the indices; what remains stays in `text`.
bool match_pattern(std::string_view pattern, std::string_view& text, int64_t& layer,
                   int64_t& expert) {
  while (!pattern.empty()) {
    if (pattern.starts_with("{L}") || pattern.starts_with("{E}")) {
      if (!take_index(text, pattern[1] == 'L' ? layer : expert)) return false;
      pattern.remove_prefix(3);
      continue;
    }
    if (text.empty() || text.front() != pattern.front()) return false;
    text.remove_prefix(1);
    pattern.remove_prefix(1);
  }
  return true;
}

// What may follow a rule's pattern: nothing or a dotted suffix, so that "norm" does not match
// "normal".
bool is_boundary(std::string_view rest) {
  return rest.empty() || rest.front() == '.';
}

}  // namespace

std::span<const TensorRule> tensor_rules() {
  return kRules;
}

const TensorRule& rule_of(Member member) {
  for (const TensorRule& rule : kRules) {
    if (rule.member == member) return rule;
  }
  NIBBLE_CHECK(false, "member without a rule", static_cast<int>(member));
  return kRules[0];
}

Shape expected_shape(Member member, const formats::ModelConfig& c) {
  const int64_t heads = c.num_attention_heads * c.head_dim;
  const int64_t kv = c.num_key_value_heads * c.head_dim;
  const int64_t keys = c.linear_num_key_heads * c.linear_key_head_dim;
  const int64_t values = c.linear_num_value_heads * c.linear_value_head_dim;
  const int64_t hidden = c.hidden_size;
  const int64_t shared = c.shared_expert_intermediate_size;
  switch (member) {
    case Member::embed_tokens:
    case Member::lm_head:
      return {c.vocab_size, hidden};
    case Member::final_norm:
    case Member::input_norm:
    case Member::post_norm:
      return {hidden};
    case Member::router:
      return {c.num_experts, hidden};
    case Member::experts_gate_up:
      return {c.num_experts, 2 * c.moe_intermediate_size, hidden};
    case Member::experts_down:
      return {c.num_experts, hidden, c.moe_intermediate_size};
    case Member::expert_gate:
    case Member::expert_up:
      return {c.moe_intermediate_size, hidden};
    case Member::expert_down:
      return {hidden, c.moe_intermediate_size};
    case Member::shared_gate:
    case Member::shared_up:
      return {shared, hidden};
    case Member::shared_down:
      return {hidden, shared};
    case Member::shared_expert_gate:
      return {1, hidden};
    case Member::in_proj_qkv:
      return {2 * keys + values, hidden};
    case Member::in_proj_z:
      return {values, hidden};
    case Member::in_proj_b:
    case Member::in_proj_a:
      return {c.linear_num_value_heads, hidden};
    case Member::conv:
      return {2 * keys + values, 1, c.linear_conv_kernel_dim};
    case Member::a_log:
    case Member::dt_bias:
      return {c.linear_num_value_heads};
    case Member::delta_norm:
      return {c.linear_value_head_dim};
    case Member::out_proj:
      return {hidden, values};
    case Member::q_proj:
      return {2 * heads, hidden};
    case Member::k_proj:
    case Member::v_proj:
      return {kv, hidden};
    case Member::o_proj:
      return {hidden, heads};
    case Member::q_norm:
    case Member::k_norm:
      return {c.head_dim};
  }
  return {};
}

bool occurs_in(const TensorRule& rule, formats::LayerType type) {
  switch (rule.scope) {
    case Scope::global:
      return false;
    case Scope::every_layer:
      return true;
    case Scope::linear_layers:
      return type == formats::LayerType::linear_attention;
    case Scope::full_layers:
      return type == formats::LayerType::full_attention;
  }
  return false;
}

std::string NamePrefix::stem(Member member, int layer, int64_t expert) const {
  std::string out = member == Member::lm_head ? head : text;
  std::string_view pattern = rule_of(member).pattern;
  while (!pattern.empty()) {
    if (pattern.front() == '{') {
      out += pattern[1] == 'L' ? std::to_string(layer) : std::to_string(expert);
      pattern.remove_prefix(3);
    } else {
      out += pattern.front();
      pattern.remove_prefix(1);
    }
  }
  return out;
}

std::string NamePrefix::name(Member member, int layer, int64_t expert) const {
  return stem(member, layer, expert) + std::string(rule_of(member).suffix);
}

std::optional<ParsedName> parse_name(std::string_view name, const NamePrefix& prefix) {
  for (const TensorRule& rule : kRules) {
    const std::string& front = rule.member == Member::lm_head ? prefix.head : prefix.text;
    if (!name.starts_with(front)) continue;
    std::string_view rest = name.substr(front.size());
    int64_t layer = -1;
    int64_t expert = -1;
    if (!match_pattern(rule.pattern, rest, layer, expert) || !is_boundary(rest)) continue;
    if (layer > INT32_MAX) continue;
    return ParsedName{rule.member, static_cast<int>(layer), expert, rest};
  }
  return std::nullopt;
}

bool is_other_part(std::string_view name) {
  return name.starts_with("model.visual.") || name.starts_with("visual.") ||
         name.starts_with("mtp.") || name.starts_with("model.mtp.");
}

bool is_kv_scale(std::string_view name) {
  constexpr std::string_view kAttention = ".self_attn";
  const size_t at = name.find(kAttention);
  if (at == std::string_view::npos) return false;
  std::string_view rest = name.substr(at + kAttention.size());
  for (const std::string_view projection : {".q_proj", ".k_proj", ".v_proj"}) {
    if (!rest.starts_with(projection)) continue;
    rest.remove_prefix(projection.size());
    if (rest == ".output_scale") return true;
    break;
  }
  return std::find(kKvScales.begin(), kKvScales.end(), rest) != kKvScales.end();
}

std::array<std::string, 3> kv_scale_names(const NamePrefix& prefix, Member member, int layer) {
  const std::string stem = prefix.stem(member, layer);
  const std::string scale = member == Member::k_proj ? ".k_scale" : ".v_scale";
  return {stem + scale, stem.substr(0, stem.rfind('.')) + scale, stem + ".output_scale"};
}

}  // namespace nibble::model
