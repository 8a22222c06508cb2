#include "cli/report_measure.h"

#include "base/file.h"
#include "cli/eval_text.h"
#include "cli/kld_comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <vector>

namespace nibble::cli {
namespace {

// Tokens from its start on which a document is known again. Shorter ones are left alone: stock
// phrases and chat headers are no overlap.
constexpr size_t kKnownBy = 48;

std::vector<int32_t> beginning(const std::vector<int32_t>& tokens) {
  const size_t length = std::min(tokens.size(), kKnownBy);
  return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(length)};
}

Result<std::string> report_file(const QuantizeOptions& options) {
  if (options.report != kDefaultReportText) return options.report;
  for (const char* name : {"/eval/heldout.txt", "/eval/heldout_generated.txt"}) {
    if (file_exists(options.source + name)) return options.source + name;
  }
  return Error{ErrorCode::invalid_argument,
               "--report: " + options.source +
                   " has neither eval/heldout.txt nor eval/heldout_generated.txt. Give a text: "
                   "--report FILE"};
}

Error overlap(const std::string& file, const std::string& what) {
  return Error{ErrorCode::invalid_argument,
               fmt::format("--report {}: {}. A quantizer fits the text it was calibrated on, so "
                           "figures on it would flatter; give another text",
                           file, what)};
}

Result<void> check_overlap(const std::string& file, const EvalText& text,
                           const Calibration& calibration) {
  std::set<std::vector<int32_t>> calibrated;
  for (const std::vector<int32_t>& sample : calibration.sequences) {
    if (sample.size() >= kKnownBy) calibrated.insert(beginning(sample));
  }
  size_t shared = 0;
  for (const eval::ScoredSequence& sequence : text.sequences) {
    shared += calibrated.contains(beginning(sequence.tokens));
  }
  if (shared == 0) return {};
  return overlap(file, fmt::format("{} of its {} {} begin like a calibration sample", shared,
                                   text.sequences.size(), text.unit));
}

quantize::Figure figure(const eval::Estimate& estimate) {
  return {estimate.value, estimate.error};
}

}  // namespace

Result<KldOptions> choose_report(const QuantizeOptions& options, const Calibration& calibration) {
  KldOptions out;
  NIBBLE_ASSIGN_OR_RETURN(out.eval.data, report_file(options));
  const Result<std::string> read = read_file(out.eval.data);
  if (!read.ok()) return Error{ErrorCode::invalid_argument, "--report: " + read.error().message};
  std::error_code ignored;
  const std::string used =
      options.calib.empty() ? options.source + "/calibration.jsonl" : options.calib;
  if (!calibration.sequences.empty() && std::filesystem::equivalent(out.eval.data, used, ignored)) {
    return overlap(out.eval.data, "is the calibration text");
  }
  const bool has_documents = read.value().find("<|endoftext|>") != std::string::npos;
  out.eval.mode = has_documents ? "documents" : "llama";
  out.base = options.source;
  out.layers = false;
  // With one BF16 layer or two BF16 heads of a 35B model: below 4 GiB in all.
  out.hidden_memory = "256MiB";
  out.noise_at_other_level = false;
  out.model.device = "cpu";
  out.model.threads = options.threads;
  NIBBLE_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer::Tokenizer::load(options.source));
  NIBBLE_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                          formats::load_model_config(options.source));
  NIBBLE_ASSIGN_OR_RETURN(const EvalText text, read_eval_text(out.eval, tokenizer, config));
  NIBBLE_RETURN_IF_ERROR(check_overlap(out.eval.data, text, calibration));
  return out;
}

Result<quantize::MeasuredQuality> measure_quality(KldOptions options, const std::string& folder) {
  options.model.model = folder;
  KldComparison comparison(options);
  NIBBLE_RETURN_IF_ERROR(comparison.run());
  const eval::KldResult result = comparison.result();
  const eval::KldReport& report = result.report;
  const EvalText& text = comparison.text();
  const RunDescription run = comparison.description();
  quantize::MeasuredQuality out;
  out.text = fmt::format("{} {}{} of {}", text.sequences.size(), text.unit,
                         text.context > 0 ? fmt::format(" of {} tokens", text.context) : "",
                         std::filesystem::path(options.eval.data).filename().string());
  out.text_sha256 = text.data_sha256;
  out.run = fmt::format("arithmetic {}, KV cache {}", run.arithmetic, run.kv_dtype);
  out.tokens = report.tokens;
  out.perplexity = figure(report.perplexity);
  out.base_perplexity = figure(report.base_perplexity);
  out.perplexity_ratio = figure(report.ratio);
  out.kld = figure(report.kld);
  out.kld_99 = report.kld_spread[2];
  out.same_top = report.same_top.value;
  for (const eval::NoiseFloor& floor : result.noise) {
    out.noise.push_back({floor.name, floor.kld.value, floor.tokens});
  }
  return out;
}

}  // namespace nibble::cli
