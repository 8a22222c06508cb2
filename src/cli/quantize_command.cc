// nibble quantize: BF16 checkpoint -> NVFP4 checkpoint. Maxima from a table or a calibration run,
// then the export.
#include "base/file.h"
#include "base/hash.h"
#include "base/sizes.h"
#include "cli/calibration_text.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "cli/progress.h"
#include "formats/nvfp4_search.h"
#include "model/checkpoint_source.h"
#include "quantize/calibration.h"
#include "quantize/exporter.h"
#include "quantize/finite_check.h"
#include "quantize/token_file.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace nibble::cli {
namespace {

using quantize::ActivationMaxima;
using quantize::Existing;
using quantize::OutputFolder;

// Name of the calibrated maxima inside the partial folder: an interrupted export goes on without
// calibrating again.
constexpr const char* kMaximaNote = "calibration.tsv";

// Where the activation maxima come from: a table, or sequences to run.
struct Calibration {
  std::string description;
  std::string digest;  // of what decides the maxima
  ActivationMaxima table;
  std::vector<std::vector<int32_t>> sequences;  // empty: the table is given
};

int64_t count_tokens(const std::vector<std::vector<int32_t>>& sequences) {
  int64_t count = 0;
  for (const auto& sequence : sequences) count += static_cast<int64_t>(sequence.size());
  return count;
}

// First samples only, cut to the wanted length; returns how many were cut.
int64_t limit_sequences(std::vector<std::vector<int32_t>>& sequences,
                        const QuantizeOptions& options) {
  const auto length = static_cast<size_t>(options.calib_length);
  sequences.resize(std::min(sequences.size(), static_cast<size_t>(options.calib_samples)));
  int64_t shortened = 0;
  for (std::vector<int32_t>& sequence : sequences) {
    shortened += sequence.size() > length;
    sequence.resize(std::min(sequence.size(), length));
  }
  return shortened;
}

Result<Calibration> calibration_sequences(const QuantizeOptions& options, const std::string& text) {
  Calibration out;
  int64_t shortened = 0;
  if (!options.calib_tokens.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(out.sequences, quantize::read_token_file(options.calib_tokens));
    shortened = limit_sequences(out.sequences, options);
  } else {
    NIBBLE_ASSIGN_OR_RETURN(
        CalibrationText read,
        read_calibration_text(text, options.source, static_cast<size_t>(options.calib_samples),
                              static_cast<size_t>(options.calib_length)));
    out.sequences = std::move(read.sequences);
    shortened = read.shortened;
  }
  out.description =
      fmt::format("{} samples, {} tokens of {}", out.sequences.size(), count_tokens(out.sequences),
                  options.calib_tokens.empty() ? text : options.calib_tokens);
  if (shortened > 0) {
    out.description += fmt::format(" ({} cut to {} tokens)", shortened, options.calib_length);
  }
  std::string identity = options.arithmetic;
  for (const std::vector<int32_t>& sequence : out.sequences) {
    identity += fmt::format("\n{}", fmt::join(sequence, " "));
  }
  out.digest = sha256_hex(std::as_bytes(std::span(identity)));
  return out;
}

Result<Calibration> choose_calibration(const QuantizeOptions& options) {
  const int given = (options.amax.empty() ? 0 : 1) + (options.calib.empty() ? 0 : 1) +
                    (options.calib_tokens.empty() ? 0 : 1);
  if (given > 1) {
    return Error{ErrorCode::invalid_argument,
                 "--amax, --calib and --calib-tokens: give one of them"};
  }
  for (const std::string& file : {options.amax, options.calib, options.calib_tokens}) {
    if (!file.empty() && !file_exists(file)) {
      return Error{ErrorCode::invalid_argument, file + ": no such file"};
    }
  }
  if (!options.amax.empty()) {
    Calibration out;
    NIBBLE_ASSIGN_OR_RETURN(out.table, ActivationMaxima::read_table(options.amax));
    out.description = fmt::format("{} maxima of {}", out.table.values().size(), options.amax);
    const std::string table = out.table.table();
    out.digest = sha256_hex(std::as_bytes(std::span(table)));
    return out;
  }
  std::string text = options.calib;
  if (text.empty() && options.calib_tokens.empty()) {
    text = options.source + "/calibration.jsonl";
    if (!file_exists(text)) {
      return Error{
          ErrorCode::invalid_argument,
          "no calibration data: " + options.source +
              " has no calibration.jsonl. Give one of\n"
              "  --calib FILE.jsonl        one record a line: {\"text\"}, {\"article\"} or "
              "{\"messages\", \"tools\"?, \"thinking\"?}\n"
              "  --calib FILE.txt          documents separated by a line <|endoftext|>, "
              "or one text\n"
              "  --calib-tokens FILE.json  token ids: [[1, 2, 3], [4, 5]]\n"
              "  --amax FILE.tsv           calibrated maxima: columns quantizer and amax"};
    }
  }
  return calibration_sequences(options, text);
}

class QuantizeRun {
 public:
  explicit QuantizeRun(const QuantizeOptions& options) : options_(options) {}

  Result<void> run() {
    NIBBLE_RETURN_IF_ERROR(open());
    NIBBLE_RETURN_IF_ERROR(obtain_maxima());
    NIBBLE_RETURN_IF_ERROR(write());
    print_report();
    return {};
  }

  /// What to do after Ctrl-C.
  std::string continuation() const {
    return folder_
               ? "run the same command again to go on; the work so far is in " + folder_->partial()
               : "nothing was written";
  }

 private:
  Result<void> open() {
    job_.source_directory = options_.source;
    NIBBLE_ASSIGN_OR_RETURN(job_.recipe, quantize::Recipe::find(options_.recipe));
    NIBBLE_ASSIGN_OR_RETURN(job_.compat, quantize::Compat::parse(options_.compat));
    job_.scales = formats::parse_scale_method(options_.scales).value_or(job_.recipe.scales);
    NIBBLE_RETURN_IF_ERROR(quantize::check_compat(job_.recipe, job_.compat, job_.scales));
    if (!options_.rules.empty()) {
      if (!options_.compat.empty()) {
        return Error{ErrorCode::invalid_argument, "--rules and --compat: give one of them"};
      }
      NIBBLE_ASSIGN_OR_RETURN(const std::string rules, read_file(options_.rules));
      NIBBLE_ASSIGN_OR_RETURN(job_.rules, quantize::parse_format_rules(rules, options_.rules));
    }
    const Existing existing = options_.overwrite ? Existing::replace : Existing::refuse;
    NIBBLE_RETURN_IF_ERROR(check_folders(existing));
    NIBBLE_ASSIGN_OR_RETURN(const formats::ModelConfig config,
                            formats::load_model_config(options_.source));
    NIBBLE_ASSIGN_OR_RETURN(auto checkpoint, formats::Checkpoint::open(options_.source));
    checkpoint_ = std::make_unique<formats::Checkpoint>(std::move(checkpoint));
    NIBBLE_ASSIGN_OR_RETURN(source_, model::CheckpointSource::open(*checkpoint_, config));
    NIBBLE_RETURN_IF_ERROR(quantize::check_quantizable(*source_, job_));
    NIBBLE_ASSIGN_OR_RETURN(calibration_, choose_calibration(options_));
    if (needs_moments() && calibration_.sequences.empty()) {
      return Error{ErrorCode::invalid_argument,
                   "--scales hessian: needs a calibration run, not --amax"};
    }
    NIBBLE_ASSIGN_OR_RETURN(compute_,
                            make_compute_device("cpu", options_.arithmetic, options_.threads));
    NIBBLE_ASSIGN_OR_RETURN(const std::string job,
                            quantize::describe_job(*checkpoint_, job_, calibration_.digest));
    NIBBLE_ASSIGN_OR_RETURN(OutputFolder folder,
                            OutputFolder::open(options_.destination, job, existing));
    folder_ = std::make_unique<OutputFolder>(std::move(folder));
    return {};
  }

  Result<void> check_folders(Existing existing) const {
    NIBBLE_ASSIGN_OR_RETURN(const std::string destination,
                            quantize::check_destination(options_.destination, existing));
    std::error_code ignored;
    if (std::filesystem::equivalent(options_.source, destination, ignored)) {
      return Error{ErrorCode::invalid_argument,
                   destination + ": is the source; choose another destination"};
    }
    return {};
  }

  Result<void> obtain_maxima() {
    if (calibration_.sequences.empty()) {
      fmt::print("calibration  {}\n", calibration_.description);
      maxima_ = calibration_.table;
      return {};
    }
    const std::string note = folder_->note(kMaximaNote);
    if (folder_->continues() && file_exists(note)) {
      NIBBLE_ASSIGN_OR_RETURN(maxima_, ActivationMaxima::read_table(note));
      fmt::print("calibration  kept from the interrupted run in {}\n", folder_->partial());
      return {};
    }
    fmt::print("calibration  {}\n", calibration_.description);
    std::fflush(stdout);
    NIBBLE_RETURN_IF_ERROR(check_weights());
    NIBBLE_RETURN_IF_ERROR(calibrate());
    return write_file_atomic(note, maxima_.table());
  }

  bool needs_moments() const { return job_.scales == formats::ScaleMethod::hessian; }

  std::string moments_note(int layer) const {
    return folder_->note(fmt::format("moments-{}", layer));
  }

  // A weight that is not finite would show in the maxima only, without its name.
  Result<void> check_weights() {
    Progress bar("checking");
    const auto checked = quantize::check_finite(*checkpoint_, [&](int64_t done, int64_t total) {
      bar.update(done, total, format_bytes(done) + " of " + format_bytes(total));
      return interrupt_signal() == 0;
    });
    if (!checked.ok() && checked.error().code == ErrorCode::corrupt) folder_->discard();
    return checked;
  }

  Result<void> calibrate() {
    Progress bar("calibrating");
    const auto started = std::chrono::steady_clock::now();
    quantize::CalibrationRequest request{calibration_.sequences, nullptr};
    if (needs_moments()) {
      request.moments = [&](int layer, const quantize::LayerMoments& moments) {
        return moments.write(moments_note(layer));
      };
    }
    NIBBLE_ASSIGN_OR_RETURN(
        quantize::CalibrationResult result,
        quantize::calibrate(*compute_.device, *source_, request, [&](int done, int total) {
          bar.update(done, total, fmt::format("layer {} of {}", done, total));
          return interrupt_signal() == 0;
        }));
    bar.finish();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    fmt::print("             {}/{} experts calibrated, {} tokens, {:.1f} s\n", result.experts_seen,
               result.experts_total, result.tokens, seconds.count());
    if (result.experts_seen < result.experts_total) {
      fmt::print("             (an expert without tokens takes its layer's common input scale)\n");
    }
    maxima_ = std::move(result.maxima);
    return {};
  }

  Result<void> write() {
    Progress bar("quantizing");
    const auto progress = [&](int64_t done, int64_t total) {
      bar.update(done, total, format_bytes(done) + " of " + format_bytes(total));
      return interrupt_signal() == 0;
    };
    job_.moments = [&](int layer) { return quantize::LayerMoments::read(moments_note(layer)); };
    NIBBLE_ASSIGN_OR_RETURN(
        report_, quantize::export_checkpoint(*compute_.device, *source_, *checkpoint_, maxima_,
                                             job_, *folder_, progress));
    return {};
  }

  void print_report() const {
    for (const std::string& warning : report_.warnings) fmt::print("warning      {}\n", warning);
    const auto bits = [](int64_t bytes, int64_t weights) {
      return 8 * static_cast<double>(bytes) / static_cast<double>(weights);
    };
    const double share =
        static_cast<double>(report_.destination_bytes) / static_cast<double>(report_.source_bytes);
    fmt::print("size         {} -> {} ({:.1f} %)\n", format_bytes(report_.source_bytes),
               format_bytes(report_.destination_bytes), 100 * share);
    fmt::print("bits         {:.2f} per quantized weight, {:.2f} per weight of the whole file\n",
               bits(report_.quantized_bytes, report_.quantized_weights),
               bits(report_.destination_bytes, report_.all_weights));
    const quantize::GroupError& all = report_.errors.at("all");
    fmt::print("error        {:.5f} relative, {:.2f} dB over {} matrices; worst {:.4f} at {}\n",
               all.relative(), all.sqnr(), all.matrices, all.largest, all.largest_name);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started_;
    fmt::print("written      {} in {:.1f} s\n", options_.destination, seconds.count());
  }

  const QuantizeOptions& options_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  quantize::ExportJob job_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::unique_ptr<model::CheckpointSource> source_;
  Calibration calibration_;
  ComputeDevice compute_;
  std::unique_ptr<OutputFolder> folder_;
  ActivationMaxima maxima_;
  quantize::ExportReport report_;
};

}  // namespace

int run_quantize(const QuantizeOptions& options) {
  QuantizeRun run(options);
  const Result<void> done = run.run();
  if (done.ok()) return kExitOk;
  if (done.error().code == ErrorCode::cancelled) {
    fmt::print(stderr, "nibble: {}; {}\n", done.error().message, run.continuation());
    return exit_code_of(done.error().code);
  }
  return report_error(done.error());
}

}  // namespace nibble::cli
