#include "quantize/quality_report.h"

#include "base/json.h"
#include "base/sizes.h"
#include "formats/nvfp4_search.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
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
    case formats::ScaleMethod::gptq:
      return "GPTQ: scales and codes of a row chosen together, each making up for the errors of "
             "those before it, weighted with the second moments of the layer's inputs (calibration "
             "text and random tokens)";
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

bool has_format(const Recipe& recipe, ModuleFormat format) {
  const auto modules = modules_of(recipe);
  return std::any_of(modules.begin(), modules.end(),
                     [&](const auto& module) { return module.second == format; });
}

// What the loaders' sources say (spec nvfp4.md 2.4, 2.6, 5); no loader was run.
std::string vllm_text(const ExportJob& job) {
  const Recipe& recipe = job.recipe;
  std::string text;
  if (is_mixed(job)) {
    text = "reads `MIXED_PRECISION` with the map `quantized_layers` of `config.json`";
  } else if (recipe.routed_experts == ModuleFormat::nvfp4_weight_only) {
    text = "accepts `W4A16_NVFP4` and runs it weight-only (Marlin)";
  } else {
    text = "`quant_method` modelopt with `NVFP4` selects `modelopt_fp4`";
  }
  if (recipe.lm_head == ModuleFormat::nvfp4) {
    text += "; versions before PR 45132 stop at `lm_head.input_scale`";
  }
  if (recipe.kv == KvScheme::fp8_calibrated) {
    text +=
        "; the KV scales of this family are read up to 0.22, later versions (reported up to "
        "0.27.1) take 1.0 instead";
  }
  return text;
}

std::string sglang_text(const ExportJob& job) {
  std::string text;
  if (is_mixed(job)) {
    text = "newer versions read mixed precision, from `hf_quant_config.json`";
  } else if (job.recipe.routed_experts == ModuleFormat::nvfp4_weight_only) {
    text = "reads `NVFP4` and `FP8`; `W4A16_NVFP4` is not among the names it is known to take";
  } else {
    text = "reads it as `modelopt_fp4`";
  }
  if (job.recipe.kv == KvScheme::fp8_calibrated) text += "; KV scales since PR 31220";
  return text;
}

std::string tensorrt_llm_text(const ExportJob& job) {
  std::string text = "reads `hf_quant_config.json`";
  if (!is_mixed(job) && job.recipe.routed_experts == ModuleFormat::nvfp4_weight_only) {
    text += ", where it is known to take `NVFP4`, not `W4A16_NVFP4`";
  }
  return text +
         "; builds before PR 13716 misread `weight_scale`, and release 1.2 does not know this "
         "model family";
}

std::string llama_cpp_text(const ExportJob& job) {
  std::string text =
      "`convert_hf_to_gguf.py` repacks NVFP4 matrices bit for bit where rows are multiples of 64";
  if (job.recipe.delta_net == ModuleFormat::nvfp4) {
    text += "; the linear-attention projections need a version that reorders their scales too";
  }
  if (has_format(job.recipe, ModuleFormat::fp8)) {
    text += "; what it does with FP8 matrices is not known to us";
  }
  if (job.recipe.kv == KvScheme::fp8_calibrated) text += "; KV scales are dropped";
  return text;
}

std::string loaders_text(const ExportJob& job) {
  return fmt::format(
      "| program | this file |\n|---|---|\n| vLLM | {} |\n| SGLang | {} |\n| TensorRT-LLM | {} |\n"
      "| llama.cpp | {} |\n\nFrom reading these projects, not from running this file in them: not "
      "verified by us.\n",
      vllm_text(job), sglang_text(job), tensorrt_llm_text(job), llama_cpp_text(job));
}

OrderedJson figure_json(const Figure& figure) {
  return {{"value", figure.value}, {"error", figure.error}};
}

OrderedJson quality_json(const std::optional<MeasuredQuality>& quality) {
  if (!quality) return nullptr;
  OrderedJson noise = OrderedJson::array();
  for (const MeasuredQuality::Noise& floor : quality->noise) {
    noise.push_back(
        {{"source_against_itself", floor.name}, {"kld", floor.kld}, {"tokens", floor.tokens}});
  }
  return {{"text", quality->text},
          {"text_sha256", quality->text_sha256},
          {"run", quality->run},
          {"tokens", quality->tokens},
          {"perplexity", figure_json(quality->perplexity)},
          {"source_perplexity", figure_json(quality->base_perplexity)},
          {"perplexity_ratio", figure_json(quality->perplexity_ratio)},
          {"kld", figure_json(quality->kld)},
          {"kld_99", quality->kld_99},
          {"same_top", quality->same_top},
          {"noise_floor", noise}};
}

std::string quality_section(const MeasuredQuality& q, bool calibrated) {
  std::string text = fmt::format(
      "## Against the source\n| | BF16 source | this file |\n|---|---|---|\n"
      "| perplexity | {:.4f} | {:.4f} |\n| ratio (paired) | 1 | {:.5f} +/- {:.5f} |\n"
      "| mean KL divergence | 0 | {:.6f} +/- {:.6f} |\n| 99 % of it | 0 | {:.5f} |\n"
      "| same most likely token | 100 % | {:.2f} % |\n\n"
      "{} scored tokens: {} (SHA-256 `{}`){}; {}. KL divergence in nats over the whole vocabulary, "
      "no term left out.",
      q.base_perplexity.value, q.perplexity.value, q.perplexity_ratio.value,
      q.perplexity_ratio.error, q.kld.value, q.kld.error, q.kld_99, 100 * q.same_top, q.tokens,
      q.text, q.text_sha256, calibrated ? ", not part of the calibration text" : "", q.run);
  for (const MeasuredQuality::Noise& floor : q.noise) {
    text += fmt::format(" Noise floor, the source against itself {}: {:.1e} ({} tokens).",
                        floor.name, floor.kld, floor.tokens);
  }
  return text + "\n\n";
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
       {{"data", report.calibration.data},
        {"tokens", report.calibration.tokens},
        {"experts_per_layer", report.calibration.experts_per_layer},
        {"experts_seen_by_layer", report.calibration.experts_seen}}},
      {"size",
       {{"source_bytes", report.source_bytes},
        {"bytes", report.destination_bytes},
        {"bits_per_quantized_weight", bits(report.quantized_bytes, report.quantized_weights)},
        {"bits_per_weight", bits(report.destination_bytes, report.all_weights)}}},
      {"weight_error", errors},
      {"against_source", quality_json(report.quality)},
      {"warnings", report.warnings}};
  return dump_json(out, 2) + "\n";
}

std::string quality_line(const MeasuredQuality& q) {
  return fmt::format(
      "KLD {:.6f} +/- {:.6f}, 99 % {:.5f}, same top {:.2f} %, perplexity ratio {:.5f} ({} tokens)",
      q.kld.value, q.kld.error, q.kld_99, 100 * q.same_top, q.perplexity_ratio.value, q.tokens);
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
      calibration_text(report.calibration), format_bytes(report.source_bytes),
      format_bytes(report.destination_bytes),
      bits(report.quantized_bytes, report.quantized_weights),
      bits(report.destination_bytes, report.all_weights), error_table(report));
  if (report.quality) text += quality_section(*report.quality, job.calibration.tokens > 0);
  return text + "## Loading\n" + loaders_text(job);
}

}  // namespace nibble::quantize
