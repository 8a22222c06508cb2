// config.json of the Qwen3.5-MoE family, as one checked struct with the checkpoint's spelling.
//
// Reads the full form (root, text_config, vision_config) and the text-only form (text fields at the
// root). Every number is bounded here, so that sizes computed from a ModelConfig cannot overflow:
// code behind this file multiplies without checking. Field by field: qwen3_5_moe.md 1.
#pragma once

#include "base/result.h"
#include "formats/quantization_config.h"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::formats {

enum class LayerType { linear_attention, full_attention };

struct VisionConfig {
  int64_t depth = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_heads = 0;
  int64_t in_channels = 3;
  int64_t patch_size = 16;
  int64_t temporal_patch_size = 2;
  int64_t spatial_merge_size = 2;
  int64_t num_position_embeddings = 0;  // a square number
  int64_t out_hidden_size = 0;  // = the text model's hidden_size
};

struct ModelConfig {
  std::string model_type;  // of the root
  std::vector<std::string> architectures;
  std::string dtype;  // "bfloat16"; informative

  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;
  std::vector<LayerType> layer_types;  // num_hidden_layers of them
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t linear_num_key_heads = 0;
  int64_t linear_num_value_heads = 0;
  int64_t linear_key_head_dim = 0;
  int64_t linear_value_head_dim = 0;
  int64_t linear_conv_kernel_dim = 0;
  int64_t num_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0;
  int64_t shared_expert_intermediate_size = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 0.0;
  double partial_rotary_factor = 0.25;
  std::array<int64_t, 3> mrope_section{11, 11, 10};  // pairs for time, height, width
  int64_t max_position_embeddings = 0;
  int64_t mtp_num_hidden_layers = 0;  // declared; the tensors may be missing
  bool tie_word_embeddings = false;
  std::vector<int64_t> eos_token_id;  // none, one or several
  std::optional<int64_t> bos_token_id;

  std::optional<VisionConfig> vision_config;
  std::optional<int64_t> image_token_id;
  std::optional<int64_t> video_token_id;
  std::optional<int64_t> vision_start_token_id;
  std::optional<int64_t> vision_end_token_id;

  std::optional<QuantizationConfig> quantization_config;

  /// Leading dimensions of a head that are rotated: int(head_dim * partial_rotary_factor), even.
  int64_t rotary_dim() const {
    return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
  }
  int64_t linear_key_size() const { return linear_num_key_heads * linear_key_head_dim; }
  int64_t linear_value_size() const { return linear_num_value_heads * linear_value_head_dim; }
  /// Channels of the short convolution and rows of in_proj_qkv: q, k, v.
  int64_t linear_conv_size() const { return 2 * linear_key_size() + linear_value_size(); }
  int64_t num_layers_of(LayerType type) const;
};

/// Parses the text of a config.json. `what` names it in errors. Every problem is listed in one
/// message. Refuses what this program does not compute: dense models, other model types, attention
/// biases, ungated attention, plain M-RoPE, scaled RoPE, deepstack, unknown quantization.
Result<ModelConfig> parse_model_config(std::string_view text, const std::string& what);

/// Reads DIRECTORY/config.json; where that has no quantization_config, also
/// DIRECTORY/hf_quant_config.json.
Result<ModelConfig> load_model_config(const std::string& directory);

const char* layer_type_name(LayerType type);

}  // namespace nibble::formats
