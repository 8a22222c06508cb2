#include "formats/hf_config.h"

#include "base/file.h"
#include "base/log.h"
#include "formats/json_fields.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace nibble::formats {
namespace {

// Upper bounds: several times the largest known sibling, and small enough that any product of the
// extents of one tensor stays far below 2^63.
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 16;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxExperts = 4096;
constexpr int64_t kMaxConvKernel = 16;
constexpr int64_t kMaxContext = int64_t{1} << 24;
constexpr int64_t kMaxTokenId = INT32_MAX;

void require_divisible(const JsonFields& fields, const char* dividend, int64_t a,
                       const char* divisor, int64_t b) {
  if (a > 0 && b > 0 && a % b != 0) {
    fields.fault(dividend, fmt::format("{} is not a multiple of {} {}", a, divisor, b));
  }
}

void read_layer_types(const JsonFields& text, ModelConfig& config) {
  const int64_t interval = text.integer("full_attention_interval", 1, kMaxLayers, 4);
  if (!text.has("layer_types")) {
    for (int64_t i = 0; i < config.num_hidden_layers && interval > 0; ++i) {
      config.layer_types.push_back((i + 1) % interval == 0 ? LayerType::full_attention
                                                           : LayerType::linear_attention);
    }
    return;
  }
  const std::vector<std::string> names = text.texts("layer_types");
  if (static_cast<int64_t>(names.size()) != config.num_hidden_layers) {
    text.fault("layer_types", fmt::format("{} entries, expected num_hidden_layers {}", names.size(),
                                          config.num_hidden_layers));
    return;
  }
  for (const std::string& name : names) {
    if (name == "full_attention" || name == "linear_attention") {
      config.layer_types.push_back(name == "full_attention" ? LayerType::full_attention
                                                            : LayerType::linear_attention);
    } else {
      text.fault("layer_types", fmt::format("found \"{}\", expected linear_attention or "
                                            "full_attention",
                                            name.substr(0, 80)));
      return;
    }
  }
}

void read_attention(const JsonFields& text, ModelConfig& config) {
  config.num_attention_heads = text.integer("num_attention_heads", 1, kMaxHeads);
  config.num_key_value_heads = text.integer("num_key_value_heads", 1, kMaxHeads);
  config.head_dim = text.integer("head_dim", 2, kMaxHeadDim);
  config.linear_num_key_heads = text.integer("linear_num_key_heads", 1, kMaxHeads);
  config.linear_num_value_heads = text.integer("linear_num_value_heads", 1, kMaxHeads);
  config.linear_key_head_dim = text.integer("linear_key_head_dim", 1, kMaxHeadDim);
  config.linear_value_head_dim = text.integer("linear_value_head_dim", 1, kMaxHeadDim);
  config.linear_conv_kernel_dim = text.integer("linear_conv_kernel_dim", 2, kMaxConvKernel);
  require_divisible(text, "num_attention_heads", config.num_attention_heads, "num_key_value_heads",
                    config.num_key_value_heads);
  require_divisible(text, "linear_num_value_heads", config.linear_num_value_heads,
                    "linear_num_key_heads", config.linear_num_key_heads);
  if (!text.boolean("attn_output_gate", true)) text.expected("attn_output_gate", "true");
  if (text.boolean("attention_bias", false)) text.expected("attention_bias", "false");
}

void read_experts(const JsonFields& text, ModelConfig& config) {
  if (!text.has("num_experts")) {
    text.expected("num_experts", "the experts of a mixture model (dense models are not supported)");
  } else {
    config.num_experts = text.integer("num_experts", 1, kMaxExperts);
  }
  config.num_experts_per_tok = text.integer("num_experts_per_tok", 1, kMaxExperts);
  config.moe_intermediate_size = text.integer("moe_intermediate_size", 1, kMaxWidth);
  config.shared_expert_intermediate_size =
      text.integer("shared_expert_intermediate_size", 1, kMaxWidth);
  if (config.num_experts > 0 && config.num_experts_per_tok > config.num_experts) {
    text.expected("num_experts_per_tok", fmt::format("at most num_experts {}", config.num_experts));
  }
  if (text.text("hidden_act", "silu") != "silu") text.expected("hidden_act", "\"silu\"");
}

void read_mrope(const JsonFields& rope, ModelConfig& config) {
  if (!rope.boolean("mrope_interleaved", true)) rope.expected("mrope_interleaved", "true");
  if (rope.has("mrope_section")) {
    const std::vector<int64_t> section = rope.integers("mrope_section", 0, kMaxHeadDim);
    if (section.size() == config.mrope_section.size()) {
      std::copy(section.begin(), section.end(), config.mrope_section.begin());
    } else {
      rope.expected("mrope_section", "three integers");
      return;
    }
  }
  const int64_t pairs = config.mrope_section[0] + config.mrope_section[1] + config.mrope_section[2];
  if (config.head_dim > 0 && config.rotary_dim() > 0 && pairs != config.rotary_dim() / 2) {
    rope.fault("mrope_section",
               fmt::format("sum {}, expected {} (half of the {} rotary dimensions)", pairs,
                           config.rotary_dim() / 2, config.rotary_dim()));
  }
}

// Values inside rope_parameters (older: rope_scaling) win over those beside it.
void read_rope(const JsonFields& text, ModelConfig& config) {
  const std::string key = text.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const JsonFields rope = text.nested(key);
  const char* type_key = rope.has("rope_type") ? "rope_type" : "type";
  const std::string type = rope.text(type_key, "default");
  if (type != "default" && type != "mrope") {
    rope.expected(type_key, "\"default\" (scaled RoPE is not supported)");
  }
  const JsonFields& theta = rope.has("rope_theta") ? rope : text;
  config.rope_theta = theta.number("rope_theta", 1.0, 1e15);
  const JsonFields& factor = rope.has("partial_rotary_factor") ? rope : text;
  config.partial_rotary_factor = factor.number("partial_rotary_factor", 0.0, 1.0, 0.25);
  if (config.head_dim > 0 && (config.rotary_dim() < 2 || config.rotary_dim() % 2 != 0)) {
    factor.fault("partial_rotary_factor",
                 fmt::format("{} of head_dim {} is {} dimensions, expected an even number above 0",
                             config.partial_rotary_factor, config.head_dim, config.rotary_dim()));
  }
  read_mrope(rope, config);
}

void read_token_ids(const JsonFields& root, const JsonFields& text, ModelConfig& config) {
  const int64_t last_id = config.vocab_size > 0 ? config.vocab_size - 1 : kMaxTokenId;
  const JsonFields& eos = text.has("eos_token_id") ? text : root;
  config.eos_token_id = eos.integers("eos_token_id", 0, last_id);
  config.bos_token_id = text.optional_integer("bos_token_id", 0, last_id);
  // Text-only files may keep the ids of a vocabulary they cut.
  const int64_t last_image_id = config.vision_config ? last_id : kMaxTokenId;
  config.image_token_id = root.optional_integer("image_token_id", 0, last_image_id);
  config.video_token_id = root.optional_integer("video_token_id", 0, last_image_id);
  config.vision_start_token_id = root.optional_integer("vision_start_token_id", 0, last_image_id);
  config.vision_end_token_id = root.optional_integer("vision_end_token_id", 0, last_image_id);
}

void read_text(const JsonFields& text, ModelConfig& config) {
  config.vocab_size = text.integer("vocab_size", 1, kMaxVocabulary);
  config.hidden_size = text.integer("hidden_size", 1, kMaxWidth);
  config.num_hidden_layers = text.integer("num_hidden_layers", 1, kMaxLayers);
  read_layer_types(text, config);
  read_attention(text, config);
  read_experts(text, config);
  config.rms_norm_eps = text.number("rms_norm_eps", 1e-12, 1.0, 1e-6);
  read_rope(text, config);
  config.max_position_embeddings = text.integer("max_position_embeddings", 1, kMaxContext);
  config.mtp_num_hidden_layers = text.integer("mtp_num_hidden_layers", 0, kMaxLayers, 0);
  config.dtype = text.text(text.has("dtype") ? "dtype" : "torch_dtype", "");
}

bool is_square(int64_t n) {
  const auto root = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(n))));
  return root * root == n;
}

VisionConfig read_vision(const JsonFields& vision, int64_t text_hidden_size) {
  VisionConfig config;
  config.depth = vision.integer("depth", 1, kMaxLayers);
  config.hidden_size = vision.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = vision.integer("intermediate_size", 1, kMaxWidth);
  config.num_heads = vision.integer("num_heads", 1, kMaxHeads);
  config.in_channels = vision.integer("in_channels", 3, 3, 3);
  config.patch_size = vision.integer("patch_size", 1, 256, 16);
  config.temporal_patch_size = vision.integer("temporal_patch_size", 1, 16, 2);
  config.spatial_merge_size = vision.integer("spatial_merge_size", 1, 16, 2);
  config.num_position_embeddings = vision.integer("num_position_embeddings", 1, int64_t{1} << 20);
  config.out_hidden_size = vision.integer("out_hidden_size", 1, kMaxWidth);
  if (!is_square(config.num_position_embeddings)) {
    vision.expected("num_position_embeddings", "a square number");
  }
  if (config.out_hidden_size > 0 && text_hidden_size > 0 &&
      config.out_hidden_size != text_hidden_size) {
    vision.expected("out_hidden_size", fmt::format("text hidden_size {}", text_hidden_size));
  }
  // A head is rotated by row and column, in pairs: four parts.
  if (config.hidden_size > 0 && config.num_heads > 0 &&
      config.hidden_size % (4 * config.num_heads) != 0) {
    vision.fault("hidden_size", fmt::format("{} is not a multiple of 4 * num_heads {}",
                                            config.hidden_size, config.num_heads));
  }
  const std::string act = vision.text("hidden_act", "gelu_pytorch_tanh");
  if (act != "gelu_pytorch_tanh") vision.expected("hidden_act", "\"gelu_pytorch_tanh\"");
  if (!vision.integers("deepstack_visual_indexes", 0, kMaxLayers).empty()) {
    vision.expected("deepstack_visual_indexes", "an empty list (deepstack is not supported)");
  }
  return config;
}

Result<void> check_model_type(const std::string& type, const std::string& what) {
  if (type == "qwen3_5_moe" || type == "qwen3_5_moe_text") return {};
  const bool dense = type == "qwen3_5" || type == "qwen3_5_text";
  return Error{
      ErrorCode::unsupported,
      fmt::format("{}: model_type: found \"{}\", expected qwen3_5_moe or "
                  "qwen3_5_moe_text{}",
                  what, type.substr(0, 80), dense ? " (dense models are not supported)" : "")};
}

Result<ModelConfig> read_config(const Json& json, const std::string& what) {
  if (!json.is_object()) return Error{ErrorCode::corrupt, what + ": expected an object"};
  Problems problems;
  const JsonFields root(json, "", problems);
  ModelConfig config;
  config.model_type = root.text("model_type", "");
  NIBBLE_RETURN_IF_ERROR(check_model_type(config.model_type, what));
  const bool nested = root.has("text_config");
  const JsonFields text = nested ? root.nested("text_config") : root;
  if (nested) {
    NIBBLE_RETURN_IF_ERROR(
        check_model_type(text.text("model_type", config.model_type), what + ": text_config"));
  }
  config.architectures = root.texts("architectures");
  read_text(text, config);
  const JsonFields& tie = root.has("tie_word_embeddings") ? root : text;
  config.tie_word_embeddings = tie.boolean("tie_word_embeddings", false);
  if (config.dtype.empty()) {
    config.dtype = root.text(root.has("dtype") ? "dtype" : "torch_dtype", "");
  }
  if (root.has("vision_config")) {
    config.vision_config = read_vision(root.nested("vision_config"), config.hidden_size);
  }
  read_token_ids(root, text, config);
  if (root.has("quantization_config")) {
    config.quantization_config =
        parse_quantization_config(root.object("quantization_config"), problems);
  }
  if (!problems.empty()) return problems.error(ErrorCode::corrupt, what);
  return config;
}

Result<QuantizationConfig> read_hf_quant_config(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const Json json, read_json_file(path));
  Problems problems;
  QuantizationConfig config = parse_hf_quant_config(json, problems);
  if (!problems.empty()) return problems.error(ErrorCode::corrupt, path);
  return config;
}

// config.json wins; a second file that says otherwise deserves a word.
void compare_quantization(const QuantizationConfig& used, const Result<QuantizationConfig>& other,
                          const std::string& path) {
  if (!other.ok()) {
    log_warning(other.error().message + " (ignored: config.json has a quantization_config)");
  } else if (other.value().kv_cache != used.kv_cache ||
             other.value().quant_algo != used.quant_algo) {
    log_warning(path + ": contradicts quantization_config in config.json, which is used");
  }
}

}  // namespace

int64_t ModelConfig::num_layers_of(LayerType type) const {
  return std::count(layer_types.begin(), layer_types.end(), type);
}

const char* layer_type_name(LayerType type) {
  return type == LayerType::full_attention ? "full_attention" : "linear_attention";
}

Result<ModelConfig> parse_model_config(std::string_view text, const std::string& what) {
  NIBBLE_ASSIGN_OR_RETURN(const Json json, parse_json(text, what));
  return read_config(json, what);
}

Result<ModelConfig> load_model_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  NIBBLE_ASSIGN_OR_RETURN(const Json json, read_json_file(path));
  NIBBLE_ASSIGN_OR_RETURN(ModelConfig config, read_config(json, path));
  const std::string hf_path = directory + "/hf_quant_config.json";
  if (!file_exists(hf_path)) return config;
  auto hf = read_hf_quant_config(hf_path);
  if (config.quantization_config) {
    compare_quantization(*config.quantization_config, hf, hf_path);
    return config;
  }
  if (!hf.ok()) return hf.error();
  config.quantization_config = std::move(hf).value();
  return config;
}

}  // namespace nibble::formats
