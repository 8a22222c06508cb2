#include "formats/quantization_config.h"

#include "formats/json_fields.h"
#include "formats/nvfp4.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>

namespace nibble::formats {
namespace {

constexpr const char* kMixed = "MIXED_PRECISION";
constexpr const char* kAlgorithms[] = {"NVFP4", "W4A16_NVFP4", "NVFP4_AWQ", "FP8", kMixed};

void read_algorithms(const JsonFields& fields, QuantizationConfig& config) {
  config.quant_algo = fields.text("quant_algo", "");
  const bool known =
      std::any_of(std::begin(kAlgorithms), std::end(kAlgorithms),
                  [&](const char* algorithm) { return config.quant_algo == algorithm; });
  if (!known) {
    fields.expected("quant_algo", fmt::format("one of {}", fmt::join(kAlgorithms, ", ")));
  }
  // Only blocks of 16 exist in NVFP4; FP8 here has one scale per tensor and no group.
  config.group_size = fields.integer("group_size", kNvfp4Block, kNvfp4Block, kNvfp4Block);
  const Json& layers = fields.object("quantized_layers");
  for (const auto& [module, value] : layers.items()) {
    const auto algorithm = value.is_object() ? value.find("quant_algo") : value.end();
    if (!value.is_object() || algorithm == value.end() || !algorithm->is_string()) {
      fields.fault("quantized_layers", module + ": quant_algo missing, expected a string");
    } else {
      config.quantized_layers.emplace(module, algorithm->get<std::string>());
    }
  }
  if (config.quant_algo == kMixed && layers.empty()) {
    fields.expected("quantized_layers", "the modules of MIXED_PRECISION");
  }
}

// compressed-tensors: a format for all groups, or "mixed-precision". Which module is in which group
// is said by patterns over modules of its own runtime; the tensors say it better.
void read_packed_format(const JsonFields& fields, QuantizationConfig& config) {
  const std::string format = fields.text("format", "");
  if (format == "mixed-precision") {
    config.quant_algo = kMixed;
    return;
  }
  if (format != "nvfp4-pack-quantized") {
    fields.expected("format", "nvfp4-pack-quantized or mixed-precision");
    return;
  }
  config.quant_algo = "W4A16_NVFP4";
  const Json& groups = fields.object("config_groups");
  for (const auto& [name, group] : groups.items()) {
    const auto inputs = group.is_object() ? group.find("input_activations") : group.end();
    if (group.is_object() && inputs != group.end() && !inputs->is_null()) {
      config.quant_algo = "NVFP4";
    }
  }
}

KvCacheScheme read_kv_scheme(const JsonFields& fields, const Json& object) {
  if (!fields.has("kv_cache_scheme")) return KvCacheScheme::none;
  const Json& scheme = object["kv_cache_scheme"];
  if (scheme.is_string() && scheme.get<std::string>() == "FP8") return KvCacheScheme::fp8;
  const bool is_fp8 = scheme.is_object() && scheme.value("type", Json()) == Json("float") &&
                      scheme.value("num_bits", Json()) == Json(8) &&
                      scheme.value("dynamic", Json(false)) == Json(false);
  if (is_fp8) return KvCacheScheme::fp8;
  fields.expected("kv_cache_scheme", "8-bit float with static scales, or none");
  return KvCacheScheme::none;
}

}  // namespace

bool wildcard_match(std::string_view pattern, std::string_view text) {
  // Greedy with one point of return: linear in pattern times text, never exponential.
  size_t p = 0;
  size_t t = 0;
  size_t star = std::string_view::npos;
  size_t resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p;
      ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

bool QuantizationConfig::ignores(std::string_view module) const {
  return std::any_of(ignore.begin(), ignore.end(),
                     [&](const std::string& pattern) { return wildcard_match(pattern, module); });
}

std::string QuantizationConfig::algorithm_for(std::string_view module) const {
  if (ignores(module)) return "";
  if (quant_algo != kMixed) return quant_algo;
  for (std::string_view name = module; !name.empty();) {
    const auto it = quantized_layers.find(name);
    if (it != quantized_layers.end()) return it->second;
    const size_t dot = name.rfind('.');
    name = dot == std::string_view::npos ? std::string_view() : name.substr(0, dot);
  }
  return "";
}

QuantizationConfig parse_quantization_config(const Json& object, Problems& problems) {
  const JsonFields fields(object, "quantization_config.", problems);
  QuantizationConfig config;
  config.quant_method = fields.text("quant_method", "");
  if (config.quant_method == "compressed-tensors") {
    read_packed_format(fields, config);
    config.kv_cache = read_kv_scheme(fields, object);
    return config;
  }
  if (!config.quant_method.starts_with("modelopt")) {
    fields.expected("quant_method",
                    "modelopt or compressed-tensors (other schemes are not supported)");
    return config;
  }
  read_algorithms(fields, config);
  config.ignore = fields.texts("ignore");
  config.kv_cache = read_kv_scheme(fields, object);
  config.producer_version = fields.nested("producer").text("version", "");
  return config;
}

QuantizationConfig parse_hf_quant_config(const Json& file, Problems& problems) {
  const JsonFields root(file, "", problems);
  QuantizationConfig config;
  config.quant_method = "modelopt";
  if (!root.has("quantization")) {
    root.expected("quantization", "an object");
    return config;
  }
  const JsonFields fields = root.nested("quantization");
  read_algorithms(fields, config);
  config.ignore = fields.texts("exclude_modules");
  const std::string kv = fields.text("kv_cache_quant_algo", "");
  if (kv == "FP8") {
    config.kv_cache = KvCacheScheme::fp8;
  } else if (!kv.empty()) {
    fields.expected("kv_cache_quant_algo", "FP8 or null");
  }
  config.producer_version = root.nested("producer").text("version", "");
  return config;
}

}  // namespace nibble::formats
