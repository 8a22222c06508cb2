// Fuzz target: config.json, hf_quant_config.json, generation_config.json and the checkpoint index,
// all on the same arbitrary text.
//
// A model configuration that is accepted must keep its bounds, since later code multiplies its
// numbers without checking.
#include "base/check.h"
#include "base/json.h"
#include "formats/checkpoint_index.h"
#include "formats/generation_config.h"
#include "formats/hf_config.h"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string_view>

namespace {

using nibble::formats::ModelConfig;

void check_bounds(const ModelConfig& c) {
  NIBBLE_CHECK(c.layer_types.size() == static_cast<size_t>(c.num_hidden_layers), "layer types");
  NIBBLE_CHECK(c.num_attention_heads % c.num_key_value_heads == 0, "query heads per KV head");
  NIBBLE_CHECK(c.linear_num_value_heads % c.linear_num_key_heads == 0, "value heads per key head");
  NIBBLE_CHECK(c.num_experts_per_tok <= c.num_experts, "experts per token");
  NIBBLE_CHECK(c.rotary_dim() >= 2 && c.rotary_dim() <= c.head_dim && c.rotary_dim() % 2 == 0,
               "rotary dimensions");
  NIBBLE_CHECK(c.mrope_section[0] + c.mrope_section[1] + c.mrope_section[2] == c.rotary_dim() / 2,
               "M-RoPE sections");
  NIBBLE_CHECK(c.rope_theta >= 1.0 && c.rms_norm_eps > 0.0, "rope_theta and rms_norm_eps");
  int64_t product = 0;
  NIBBLE_CHECK(!__builtin_mul_overflow(c.num_experts * 2 * c.moe_intermediate_size, c.hidden_size,
                                       &product) &&
                   !__builtin_mul_overflow(c.vocab_size, c.hidden_size, &product) &&
                   !__builtin_mul_overflow(c.linear_conv_size(), c.hidden_size, &product),
               "sizes do not overflow");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto config = nibble::formats::parse_model_config(text, "config.json");
  if (config.ok()) check_bounds(config.value());
  (void)nibble::formats::parse_generation_config(text, "generation_config.json");
  (void)nibble::formats::parse_checkpoint_index(text, "index");
  const auto json = nibble::parse_json(text, "hf_quant_config.json");
  if (json.ok()) {
    nibble::Problems problems;
    const auto quantization = nibble::formats::parse_hf_quant_config(json.value(), problems);
    (void)quantization.algorithm_for("model.layers.0.mlp.experts.0.gate_proj");
  }
  return 0;
}
