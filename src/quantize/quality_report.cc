#include "quantize/quality_report.h"

#include "base/json.h"
#include "base/sizes.h"
#include "formats/nvfp4_search.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <filesystem>

namespace nibble::quantize {
namespace {

const char* kv_name(KvScheme kv) {
  switch (kv) {
    case KvScheme::none:
      return "not quantized";
    case KvScheme::fp8_calibrated:
      return "FP8, calibrated scales";
    case KvScheme::fp8_cast:
      return "FP8, scale 1";
  }
  return "?";
}

const char* scales_text(formats::ScaleMethod method) {
  switch (method) {
    case formats::ScaleMethod::max:
      return "each block's largest magnitude";
    case formats::ScaleMethod::mse:
      return "for each block the one of 126 scales with the least squared error";
    case formats::ScaleMethod::four_over_six:
      return "for each block the better of two: its largest magnitude on 6 or on 4";
    case formats::ScaleMethod::hessian:
      return "for each block the one of 126 scales with the least error, weighted with the second "
             "moments of the layer's inputs";
  }
  return "?";
}

// Modules by what they are stored as, in the recipe's words.
std::vector<std::pair<std::string, ModuleFormat>> modules_of(const Recipe& recipe) {
  return {{"routed experts", recipe.routed_experts},
          {"shared expert", recipe.shared_expert},
          {"attention q, k, v, o", recipe.attention},
          {"linear attention in_proj_qkv, in_proj_z, out_proj", recipe.delta_net},
          {"lm_head", recipe.lm_head}};
}

OrderedJson error_json(const GroupError& error) {
  return {{"matrices", error.matrices},
          {"relative_error", error.relative()},
          {"sqnr_db", error.sqnr()},
          {"largest_relative_error", error.largest},
          {"largest_at", error.largest_name}};
}

// Last part of the source's path.
std::string source_name(const ExportJob& job) {
  std::error_code ignored;
  const auto path = std::filesystem::absolute(job.source_directory, ignored).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

double bits(int64_t bytes, int64_t weights) {
  return weights == 0 ? 0 : 8 * static_cast<double>(bytes) / static_cast<double>(weights);
}

bool is_mixed(const ExportJob& job) {
  ModuleFormat first = ModuleFormat::bf16;
  bool mixed = !job.rules.empty();
  for (const auto& [name, format] : modules_of(job.recipe)) {
    if (format == ModuleFormat::bf16) continue;
    mixed |= first != ModuleFormat::bf16 && format != first;
    first = format;
  }
  return mixed;
}

// From the loaders' sources; none of them was run by whoever wrote the file.
std::string loaders_text(const ExportJob& job) {
  const Recipe& recipe = job.recipe;
  if (is_mixed(job)) {
    return "This is a MIXED_PRECISION file. vLLM reads the map `quantized_layers` of "
           "`config.json`; "
           "SGLang needs a version that reads mixed precision from `hf_quant_config.json`; "
           "TensorRT-LLM reads `hf_quant_config.json`. llama.cpp's converter takes NVFP4 experts, "
           "but check that your version takes FP8 layers.";
  }
  if (recipe.routed_experts == ModuleFormat::nvfp4_weight_only) {
    return "This is a W4A16_NVFP4 file. vLLM runs it weight-only (Marlin). SGLang and TensorRT-LLM "
           "list NVFP4, not this name. llama.cpp's converter repacks the same bits.";
  }
  std::string text =
      "This is an NVFP4 file. vLLM selects `modelopt_fp4`; SGLang reads it as `modelopt_fp4`; "
      "TensorRT-LLM reads `hf_quant_config.json`. llama.cpp's converter repacks the same bits "
      "where "
      "row lengths are multiples of 64.";
  if (recipe.delta_net == ModuleFormat::nvfp4) {
    text += " Quantized linear-attention layers need a converter that reorders their scales too.";
  }
  return text;
}

std::string error_table(const ExportReport& report) {
  std::string out =
      "| module | matrices | relative error | SQNR | worst matrix |\n|---|---|---|---|---|\n";
  for (const auto& [name, error] : report.errors) {
    out += fmt::format("| {} | {} | {:.4f} | {:.2f} dB | {:.4f} |\n", name, error.matrices,
                       error.relative(), error.sqnr(), error.largest);
  }
  return out;
}

std::string calibration_text(const CalibrationSummary& calibration) {
  if (calibration.tokens == 0) return "Activation maxima: " + calibration.data + ".";
  std::string text = fmt::format("Calibrated on {}. {} of {} routed experts received a token",
                                 calibration.data, calibration.seen(), calibration.total());
  const bool all = calibration.seen() == calibration.total();
  return text + (all ? "." : "; the others take their layer's common input scale.");
}

}  // namespace

std::string quality_report_json(const ExportJob& job, const ExportReport& report) {
  OrderedJson rules = OrderedJson::array();
  for (const FormatRule& rule : job.rules) {
    rules.push_back({{"pattern", rule.pattern}, {"format", module_format_name(rule.format)}});
  }
  OrderedJson modules = OrderedJson::object();
  for (const auto& [name, format] : modules_of(job.recipe))
    modules[name] = module_format_name(format);
  OrderedJson errors = OrderedJson::object();
  for (const auto& [name, error] : report.errors) errors[name] = error_json(error);
  const OrderedJson out = {
      {"format", 1},
      {"producer", job.producer},
      {"source", source_name(job)},
      {"recipe", job.recipe.name},
      {"modules", modules},
      {"rules", rules},
      {"block_scales", formats::scale_method_name(job.scales)},
      {"kv_cache", kv_name(job.recipe.kv)},
      {"calibration",
       {{"data", job.calibration.data},
        {"tokens", job.calibration.tokens},
        {"experts_per_layer", job.calibration.experts_per_layer},
        {"experts_seen_by_layer", job.calibration.experts_seen}}},
      {"size",
       {{"source_bytes", report.source_bytes},
        {"bytes", report.destination_bytes},
        {"bits_per_quantized_weight", bits(report.quantized_bytes, report.quantized_weights)},
        {"bits_per_weight", bits(report.destination_bytes, report.all_weights)}}},
      {"weight_error", errors},
      {"warnings", report.warnings}};
  return dump_json(out, 2) + "\n";
}

std::string model_card(const ExportJob& job, const ExportReport& report) {
  std::string text = fmt::format(
      "---\ntags:\n- nvfp4\n- modelopt\n- qwen3_5_moe\n---\n# {} in NVFP4\n\n"
      "Made from the BF16 checkpoint `{}` by {}, recipe `{}`.\n\n| module | stored as "
      "|\n|---|---|\n",
      source_name(job), source_name(job), job.producer, job.recipe.name);
  for (const auto& [name, format] : modules_of(job.recipe)) {
    text += fmt::format("| {} | {} |\n", name, module_format_name(format));
  }
  text += "| everything else | bf16 |\n";
  for (const FormatRule& rule : job.rules) {
    text += fmt::format("| rule `{}` | {} |\n", rule.pattern, module_format_name(rule.format));
  }
  text += fmt::format(
      "\nKV cache: {}. Block scales (`{}`): {}.\n\n{}\n\n## Size\n{} -> {}; {:.2f} bits per "
      "quantized "
      "weight, {:.2f} over the whole file.\n\n## Weight error\n{}\n"
      "Relative error: root of the summed squared differences over the summed squares of the "
      "source. "
      "These are figures of the weights alone; `quality_report.json` has them in full.\n\n",
      kv_name(job.recipe.kv), formats::scale_method_name(job.scales), scales_text(job.scales),
      calibration_text(job.calibration), format_bytes(report.source_bytes),
      format_bytes(report.destination_bytes),
      bits(report.quantized_bytes, report.quantized_weights),
      bits(report.destination_bytes, report.all_weights), error_table(report));
  text += "## Loading\n" + loaders_text(job) +
          " This paragraph comes from reading those loaders, not from running this file in them.\n";
  return text;
}

}  // namespace nibble::quantize
