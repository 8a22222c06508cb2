#include "quantize/export_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace nibble::quantize {
namespace {

using model::Member;
using Version = Compat::Version;

const char* algorithm_name(ModuleFormat format) {
  switch (format) {
    case ModuleFormat::bf16:
      return "BF16";
    case ModuleFormat::fp8:
      return "FP8";
    case ModuleFormat::nvfp4:
      return "NVFP4";
    case ModuleFormat::nvfp4_weight_only:
      return "W4A16_NVFP4";
  }
  return "?";
}

OrderedJson number_format(ModuleFormat format) {
  OrderedJson out = {{"dynamic", false}, {"num_bits", is_nvfp4(format) ? 4 : 8}, {"type", "float"}};
  if (is_nvfp4(format)) out["group_size"] = 16;
  return out;
}

OrderedJson config_group(ModuleFormat format, const std::vector<std::string>& targets) {
  OrderedJson out = OrderedJson::object();
  if (has_input_scale(format)) out["input_activations"] = number_format(format);
  out["weights"] = number_format(format);
  out["targets"] = targets;
  return out;
}

OrderedJson producer(Version version) {
  return {{"name", "modelopt"},
          {"version", version == Version::modelopt_0_44 ? "0.44.0" : "0.47.0"}};
}

// The modules of a model under ModelOpt's names, those that own quantizers.
class ModuleLists {
 public:
  ModuleLists(const formats::ModelConfig& config, const model::NamePrefix& prefix,
              const FormatPlan& plan, Version version, bool has_vision)
      : prefix_(prefix), plan_(plan), version_(version) {
    for (int layer = 0; layer < static_cast<int>(config.layer_types.size()); ++layer) {
      dense(layer);
      experts(layer);
    }
    head(config.tie_word_embeddings);
    // 0.44 lists neither the embedding nor the router.
    if (version != Version::modelopt_0_44) excluded_.push_back(prefix.text + "embed_tokens");
    if (has_vision || version == Version::none) excluded_.push_back("model.visual*");
    if (version == Version::none) {
      excluded_.push_back("mtp*");
      excluded_.push_back("mtp.layers.0*");
    }
    std::sort(excluded_.begin(), excluded_.end());
  }

  /// In the order of the model.
  const std::vector<std::pair<std::string, ModuleFormat>>& quantized() const { return quantized_; }
  /// Sorted; "prefix*" where nothing below is quantized.
  const std::vector<std::string>& excluded() const { return excluded_; }

  /// Formats in the order they first appear.
  std::vector<ModuleFormat> formats() const {
    std::vector<ModuleFormat> out;
    for (const auto& [name, format] : quantized_) {
      if (std::find(out.begin(), out.end(), format) == out.end()) out.push_back(format);
    }
    return out;
  }

 private:
  void add(const std::string& name, ModuleFormat format) {
    if (format == ModuleFormat::bf16) {
      excluded_.push_back(name);
    } else {
      quantized_.emplace_back(name, format);
    }
  }

  void dense(int layer) {
    const std::vector<Member> members = plan_.dense_members(layer);
    const bool full = members.front() == Member::q_proj;
    const std::string stem = layer_stem(layer) + (full ? "self_attn" : "linear_attn");
    const bool any = std::any_of(members.begin(), members.end(), [&](Member member) {
      return plan_.of(member, layer) != ModuleFormat::bf16;
    });
    if (!any) {
      excluded_.push_back(stem + "*");
      return;
    }
    if (!full) excluded_.push_back(stem + ".conv1d");
    for (const Member member : members) add(prefix_.stem(member, layer), plan_.of(member, layer));
  }

  void experts(int layer) {
    const std::string mlp = layer_stem(layer) + "mlp.";
    const ModuleFormat routed = plan_.of(Member::expert_gate, layer);
    add(mlp + (routed == ModuleFormat::bf16 ? "experts*" : "experts"), routed);
    for (const Member member : {Member::shared_gate, Member::shared_up, Member::shared_down}) {
      add(prefix_.stem(member, layer), plan_.of(member, layer));
    }
    if (version_ != Version::modelopt_0_44) excluded_.push_back(mlp + "gate");
    excluded_.push_back(mlp + "shared_expert_gate");
  }

  // ModelOpt lists a head that exists.
  void head(bool tied) {
    const ModuleFormat format = plan_.of(Member::lm_head, kOutsideLayers);
    if (!tied || version_ == Version::none) add(prefix_.head + "lm_head", format);
  }

  std::string layer_stem(int layer) const {
    return prefix_.text + "layers." + std::to_string(layer) + ".";
  }

  const model::NamePrefix& prefix_;
  const FormatPlan& plan_;
  Version version_;
  std::vector<std::pair<std::string, ModuleFormat>> quantized_;
  std::vector<std::string> excluded_;
};

OrderedJson quantized_layers(const ModuleLists& modules) {
  OrderedJson out = OrderedJson::object();
  for (const auto& [name, format] : modules.quantized()) {
    out[name] = {{"quant_algo", algorithm_name(format)}};
    if (is_nvfp4(format)) out[name]["group_size"] = 16;
  }
  return out;
}

// One group per format, with its modules' names; a single format applies to every linear layer.
OrderedJson config_groups(const ModuleLists& modules) {
  OrderedJson out = OrderedJson::object();
  const std::vector<ModuleFormat> formats = modules.formats();
  if (formats.size() == 1) {
    out["group_0"] = config_group(formats.front(), {"Linear"});
    return out;
  }
  for (size_t i = 0; i < formats.size(); ++i) {
    std::vector<std::string> targets;
    for (const auto& [name, format] : modules.quantized()) {
      if (format == formats[i]) targets.push_back(name);
    }
    std::sort(targets.begin(), targets.end());
    out["group_" + std::to_string(i)] = config_group(formats[i], targets);
  }
  return out;
}

std::string quant_algo(const ModuleLists& modules) {
  const std::vector<ModuleFormat> formats = modules.formats();
  return formats.size() == 1 ? algorithm_name(formats.front()) : "MIXED_PRECISION";
}

OrderedJson quantization_config(const ModuleLists& modules, KvScheme kv, Version version) {
  const bool mixed = modules.formats().size() > 1;
  const bool lists_excluded = !mixed || version == Version::none;
  OrderedJson out = OrderedJson::object();
  out["config_groups"] = config_groups(modules);
  if (mixed) out["quantized_layers"] = quantized_layers(modules);
  out["ignore"] = lists_excluded ? modules.excluded() : std::vector<std::string>();
  out["quant_algo"] = quant_algo(modules);
  if (kv != KvScheme::none) out["kv_cache_scheme"] = number_format(ModuleFormat::fp8);
  if (version == Version::none) out["group_size"] = 16;
  out["producer"] = producer(version);
  out["quant_method"] = "modelopt";
  return out;
}

OrderedJson hf_quant_config(const ModuleLists& modules, KvScheme kv, Version version) {
  const bool mixed = modules.formats().size() > 1;
  OrderedJson quantization = OrderedJson::object();
  quantization["quant_algo"] = quant_algo(modules);
  quantization["kv_cache_quant_algo"] =
      kv == KvScheme::none ? OrderedJson(nullptr) : OrderedJson("FP8");
  if (mixed) quantization["quantized_layers"] = quantized_layers(modules);
  if (!mixed || version == Version::none) {
    quantization["group_size"] = 16;
    quantization["exclude_modules"] = modules.excluded();
  }
  return {{"producer", producer(version)}, {"quantization", quantization}};
}

}  // namespace

Result<ExportConfig> make_export_config(const std::string& source_config,
                                        const formats::ModelConfig& config,
                                        const model::NamePrefix& prefix, const FormatPlan& plan,
                                        const Compat& compat, bool has_vision) {
  NIBBLE_ASSIGN_OR_RETURN(OrderedJson out, parse_ordered_json(source_config, "config.json"));
  const ModuleLists modules(config, prefix, plan, compat.version, has_vision);
  if (modules.quantized().empty()) {
    return Error{ErrorCode::invalid_argument, "the rules leave nothing to quantize"};
  }
  out["quantization_config"] = quantization_config(modules, plan.kv(), compat.version);
  const OrderedJson hf = hf_quant_config(modules, plan.kv(), compat.version);
  return ExportConfig{dump_json(out, 2) + "\n", dump_json(hf, 4) + "\n"};
}

}  // namespace nibble::quantize
