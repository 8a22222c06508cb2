#include "quantize/export_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <vector>

namespace nibble::quantize {
namespace {

using Version = Compat::Version;

// Modules left unquantized, the way ModelOpt shortens them: "prefix*" where nothing below is
// quantized.
std::vector<std::string> excluded_modules(const formats::ModelConfig& config,
                                          const model::NamePrefix& prefix, Version version,
                                          bool has_vision) {
  std::vector<std::string> out;
  // ModelOpt lists a head that exists; 0.44 lists neither the embedding nor the router.
  if (!config.tie_word_embeddings || version == Version::none)
    out.push_back(prefix.head + "lm_head");
  if (version != Version::modelopt_0_44) out.push_back(prefix.text + "embed_tokens");
  for (size_t i = 0; i < config.layer_types.size(); ++i) {
    const std::string layer = prefix.text + "layers." + std::to_string(i) + ".";
    const bool full = config.layer_types[i] == formats::LayerType::full_attention;
    out.push_back(layer + (full ? "self_attn*" : "linear_attn*"));
    if (version != Version::modelopt_0_44) out.push_back(layer + "mlp.gate");
    out.push_back(layer + "mlp.shared_expert_gate");
  }
  if (has_vision || version == Version::none) out.push_back("model.visual*");
  if (version == Version::none) {
    out.push_back("mtp*");
    out.push_back("mtp.layers.0*");
  }
  std::sort(out.begin(), out.end());
  return out;
}

OrderedJson producer(Version version) {
  return {{"name", "modelopt"},
          {"version", version == Version::modelopt_0_44 ? "0.44.0" : "0.47.0"}};
}

OrderedJson quantization_config(const Recipe& recipe, const std::vector<std::string>& excluded,
                                Version version) {
  const OrderedJson format = {
      {"dynamic", false}, {"num_bits", 4}, {"type", "float"}, {"group_size", 16}};
  OrderedJson group = OrderedJson::object();
  if (recipe.input_scales) group["input_activations"] = format;
  group["weights"] = format;
  group["targets"] = {"Linear"};
  OrderedJson out = OrderedJson::object();
  out["config_groups"] = {{"group_0", group}};
  out["ignore"] = excluded;
  out["quant_algo"] = recipe.quant_algo;
  if (recipe.fp8_kv)
    out["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  if (version == Version::none) out["group_size"] = 16;
  out["producer"] = producer(version);
  out["quant_method"] = "modelopt";
  return out;
}

}  // namespace

Result<ExportConfig> make_export_config(const std::string& source_config,
                                        const formats::ModelConfig& config,
                                        const model::NamePrefix& prefix, const Recipe& recipe,
                                        const Compat& compat, bool has_vision) {
  NIBBLE_ASSIGN_OR_RETURN(OrderedJson out, parse_ordered_json(source_config, "config.json"));
  const std::vector<std::string> excluded =
      excluded_modules(config, prefix, compat.version, has_vision);
  out["quantization_config"] = quantization_config(recipe, excluded, compat.version);

  OrderedJson quantization = OrderedJson::object();
  quantization["quant_algo"] = recipe.quant_algo;
  quantization["kv_cache_quant_algo"] = recipe.fp8_kv ? OrderedJson("FP8") : OrderedJson(nullptr);
  quantization["group_size"] = 16;
  quantization["exclude_modules"] = excluded;
  OrderedJson hf = OrderedJson::object();
  hf["producer"] = producer(compat.version);
  hf["quantization"] = quantization;
  return ExportConfig{dump_json(out, 2) + "\n", dump_json(hf, 4) + "\n"};
}

}  // namespace nibble::quantize
