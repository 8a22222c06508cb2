// The one table of text-model tensors: name pattern -> member, expected shape, allowed formats,
// shard axis.
//
// The loader reads it from name to member; the quantizer reads it from member to name. Names: spec
// qwen3_5_moe.md 2.
#pragma once

#include "formats/hf_config.h"
#include "tensor/shape.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace nibble::model {

/// Which member of the weight structs a tensor fills.
enum class Member {
  embed_tokens,
  final_norm,
  lm_head,
  input_norm,
  post_norm,
  router,
  experts_gate_up,  // fused bank [E, 2I, H]
  experts_down,  // fused bank [E, H, I]
  expert_gate,  // one matrix per expert
  expert_up,
  expert_down,
  shared_gate,
  shared_up,
  shared_down,
  shared_expert_gate,
  in_proj_qkv,
  in_proj_z,
  in_proj_b,
  in_proj_a,
  conv,
  a_log,
  dt_bias,
  delta_norm,
  out_proj,
  q_proj,
  k_proj,
  v_proj,
  o_proj,
  q_norm,
  k_norm,
};

/// What may be stored: a plain BF16/F32 tensor, or a linear weight in any format.
enum class TensorKind { plain, linear, bank };

/// Where the tensor occurs.
enum class Scope { global, every_layer, linear_layers, full_layers };

/// Dimension along which several ranks would split it.
enum class ShardAxis { none, rows, columns, experts };

struct TensorRule {
  Member member;
  std::string_view
      pattern;  // below the text prefix; {L} layer, {E} expert. "lm_head" has no prefix.
  std::string_view suffix;  // ".weight", or empty
  TensorKind kind;
  Scope scope;
  ShardAxis shard_axis;
};

std::span<const TensorRule> tensor_rules();
const TensorRule& rule_of(Member member);

/// Shape of the (unquantized) tensor.
Shape expected_shape(Member member, const formats::ModelConfig& config);

/// True if the layer has this tensor.
bool occurs_in(const TensorRule& rule, formats::LayerType type);

/// Spelling of the names in one checkpoint: the prefix before "layers." and before "lm_head".
struct NamePrefix {
  std::string text = "model.language_model.";
  std::string head = "";

  /// Stem of a tensor (name without suffix), layer and expert filled in.
  std::string stem(Member member, int layer, int64_t expert = 0) const;
  /// Full tensor name.
  std::string name(Member member, int layer, int64_t expert = 0) const;
};

/// A checkpoint name, taken apart.
struct ParsedName {
  Member member;
  int layer = -1;
  int64_t expert = -1;
  std::string_view rest;  // what follows the pattern: ".weight", ".weight_scale", ".k_scale", ""
};

/// Nothing when no rule matches.
std::optional<ParsedName> parse_name(std::string_view name, const NamePrefix& prefix);

/// True for tensors the text model does not read but a checkpoint may hold: vision tower, draft
/// layer.
bool is_other_part(std::string_view name);

/// True for the scales and biases of a quantized KV cache (or query), in any dialect's spelling.
bool is_kv_scale(std::string_view name);

/// Where the scale of K (k_proj) or V (v_proj) may stand: ModelOpt's name, compressed-tensors', its
/// older one.
std::array<std::string, 3> kv_scale_names(const NamePrefix& prefix, Member member, int layer);

}  // namespace nibble::model
