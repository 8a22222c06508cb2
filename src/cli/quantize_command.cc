// nibble quantize: BF16 checkpoint -> NVFP4 checkpoint. Maxima from a table or a calibration run,
// then the export.
#include "base/file.h"
#include "base/sizes.h"
#include "cli/calibration_choice.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "cli/progress.h"
#include "cli/report_measure.h"
#include "formats/nvfp4_search.h"
#include "model/checkpoint_source.h"
#include "quantize/calibration.h"
#include "quantize/exporter.h"
#include "quantize/finite_check.h"
#include "quantize/quality_report.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
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
constexpr const char* kSummaryNote = "calibration.json";

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
    job_.producer = std::string("nibble ") + NIBBLE_VERSION;
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
    if (!options_.report.empty()) {
      NIBBLE_ASSIGN_OR_RETURN(report_text_, choose_report(options_, calibration_));
    }
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
      fmt::print("calibration  {}\n", calibration_.summary.data);
      maxima_ = calibration_.table;
      job_.calibration = calibration_.summary;
      return {};
    }
    const std::string note = folder_->note(kMaximaNote);
    const std::string summary = folder_->note(kSummaryNote);
    if (folder_->continues() && file_exists(note)) {
      NIBBLE_ASSIGN_OR_RETURN(maxima_, ActivationMaxima::read_table(note));
      NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(summary));
      NIBBLE_ASSIGN_OR_RETURN(job_.calibration, quantize::CalibrationSummary::parse(text, summary));
      fmt::print("calibration  kept from the interrupted run in {}\n", folder_->partial());
      return {};
    }
    fmt::print("calibration  {}\n", calibration_.summary.data);
    std::fflush(stdout);
    NIBBLE_RETURN_IF_ERROR(check_weights());
    NIBBLE_RETURN_IF_ERROR(calibrate());
    NIBBLE_RETURN_IF_ERROR(write_file_atomic(summary, job_.calibration.to_json()));
    return write_file_atomic(note, maxima_.table());  // last: it says that all the rest is there
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
    job_.calibration = calibration_.summary;
    job_.calibration.experts_per_layer = source_->config().num_experts;
    job_.calibration.experts_seen = result.experts_seen_by_layer;
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
    if (report_text_) {
      job_.measure = [&](const std::string& folder) {
        bar.finish();
        fmt::print("report       against {} on {}\n", options_.source, report_text_->eval.data);
        std::fflush(stdout);
        return measure_quality(*report_text_, folder);
      };
    }
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
    if (report_.quality) fmt::print("quality      {}\n", quantize::quality_line(*report_.quality));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started_;
    fmt::print("written      {} in {:.1f} s\n", options_.destination, seconds.count());
  }

  const QuantizeOptions& options_;
  std::chrono::steady_clock::time_point started_ = std::chrono::steady_clock::now();
  quantize::ExportJob job_;
  std::unique_ptr<formats::Checkpoint> checkpoint_;
  std::unique_ptr<model::CheckpointSource> source_;
  Calibration calibration_;
  std::optional<KldOptions> report_text_;
  ComputeDevice compute_;
  std::unique_ptr<OutputFolder> folder_;
  ActivationMaxima maxima_;
  quantize::ExportReport report_;
};

}  // namespace

int run_quantize(const QuantizeOptions& options) {
  if (!options.verify.empty()) return run_verify(options);
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
