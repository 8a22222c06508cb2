// nibble quantize: BF16 checkpoint -> NVFP4 checkpoint, layer by layer. Maxima come from a table,
// from running calibration text, or are not needed.
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
#include "quantize/quality_report.h"
#include "quantize/statistics_file.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nibble::cli {
namespace {

using quantize::Existing;
using quantize::ExportPhase;
using quantize::ExportPosition;
using quantize::OutputFolder;

const char* phase_name(ExportPhase phase) {
  switch (phase) {
    case ExportPhase::copying:
      return "copying";
    case ExportPhase::calibrating:
      return "calibrating";
    case ExportPhase::quantizing:
      return "quantizing";
    case ExportPhase::publishing:
      return "publishing";
  }
  return "?";
}

class QuantizeRun {
 public:
  explicit QuantizeRun(const QuantizeOptions& options) : options_(options) {}

  Result<void> run() {
    NIBBLE_RETURN_IF_ERROR(open());
    NIBBLE_RETURN_IF_ERROR(prepare_calibration());
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
    job_.scales = formats::parse_scale_method(options_.scales).value_or(default_scales());
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
    NIBBLE_ASSIGN_OR_RETURN(needs_, quantize::check_quantizable(*source_, job_));
    NIBBLE_ASSIGN_OR_RETURN(calibration_, choose_calibration(options_, needs_));
    if (!options_.report.empty()) {
      NIBBLE_ASSIGN_OR_RETURN(report_text_, choose_report(options_, calibration_));
    }
    if ((needs_.moments || needs_.inputs) && calibration_.sequences.empty()) {
      return Error{ErrorCode::invalid_argument,
                   fmt::format("--scales {}: needs a calibration run, not --amax",
                               formats::scale_method_name(job_.scales))};
    }
    if (needs_.inputs && !options_.stats.empty()) {
      return Error{ErrorCode::invalid_argument,
                   "--scales gptq: needs whole input rows, which --stats does not keep; choose "
                   "another search or leave it out"};
    }
    NIBBLE_ASSIGN_OR_RETURN(compute_,
                            make_compute_device({"cpu", options_.arithmetic, options_.threads}));
    // Work begun without --stats has not kept what the file needs.
    NIBBLE_ASSIGN_OR_RETURN(
        const std::string job,
        quantize::describe_job(*checkpoint_, job_,
                               calibration_.digest + (options_.stats.empty() ? "" : " kept")));
    NIBBLE_ASSIGN_OR_RETURN(OutputFolder folder,
                            OutputFolder::open(options_.destination, job, existing));
    folder_ = std::make_unique<OutputFolder>(std::move(folder));
    return {};
  }

  // A recipe that names a search keeps it; else the best method that the data allow
  // (docs/quality.md).
  formats::ScaleMethod default_scales() const {
    const bool is_ours = job_.compat.version == quantize::Compat::Version::none;
    if (!is_ours || job_.recipe.scales != formats::ScaleMethod::max) return job_.recipe.scales;
    if (!options_.amax.empty()) return formats::ScaleMethod::mse;
    return options_.stats.empty() ? formats::ScaleMethod::gptq : formats::ScaleMethod::hessian;
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

  Result<void> prepare_calibration() {
    job_.calibration = calibration_.summary;
    fmt::print("calibration  {}\n", calibration_.summary.data);
    if (!options_.stats.empty()) NIBBLE_RETURN_IF_ERROR(prepare_statistics_file());
    std::fflush(stdout);
    if (calibration_.sequences.empty() || statistics_file_) return {};
    quantize::CalibrationRequest request;
    request.sequences = calibration_.sequences;
    request.gathered.moments = needs_.moments;
    request.gathered.inputs = needs_.inputs;
    request.gathered.noise = needs_.inputs;
    request.force_all_experts = options_.force_all_experts;
    request.scratch = folder_->note("");
    NIBBLE_ASSIGN_OR_RETURN(
        calibrator_, quantize::Calibrator::open(*compute_.device, *source_, std::move(request),
                                                [this](int64_t done, int64_t total) {
                                                  return show_sequences(done, total);
                                                }));
    job_.statistics = [this](int layer) { return gather(layer); };
    return {};
  }

  Result<quantize::LayerStatistics> gather(int layer) {
    NIBBLE_ASSIGN_OR_RETURN(quantize::LayerStatistics statistics, calibrator_->layer(layer));
    if (recorder_) NIBBLE_RETURN_IF_ERROR(recorder_->add(layer, statistics));
    return statistics;
  }

  Result<void> prepare_statistics_file() {
    if (calibration_.sequences.empty()) {
      return Error{ErrorCode::invalid_argument,
                   "--stats: no calibration is run for this recipe, or its maxima are given"};
    }
    quantize::StatisticsIdentity identity;
    NIBBLE_ASSIGN_OR_RETURN(identity.source,
                            quantize::source_digest(*checkpoint_, options_.source));
    identity.calibration = calibration_.digest;
    if (!file_exists(options_.stats)) {
      recorder_.emplace(options_.stats, folder_->note(""), identity, calibration_.summary,
                        static_cast<int>(source_->config().num_hidden_layers));
      return {};
    }
    NIBBLE_ASSIGN_OR_RETURN(
        quantize::StatisticsFile file,
        quantize::StatisticsFile::open(options_.stats, identity, needs_.moments));
    statistics_file_.emplace(std::move(file));
    job_.statistics = [this](int layer) { return statistics_file_->layer(layer); };
    fmt::print("             its statistics are taken from {}\n", options_.stats);
    return {};
  }

  bool show_sequences(int64_t done, int64_t total) {
    bar_.update(done, total, fmt::format("sequence {} of {}", done, total));
    return interrupt_signal() == 0;
  }

  bool show(const ExportPosition& position) {
    if (position.phase != shown_.phase || position.layer != shown_.layer) start_phase(position);
    if (position.phase != ExportPhase::calibrating) {
      bar_.update(position.done_bytes, position.total_bytes,
                  format_bytes(position.done_bytes) + " of " + format_bytes(position.total_bytes));
    }
    return interrupt_signal() == 0;
  }

  void start_phase(const ExportPosition& position) {
    shown_ = position;
    const std::string name = phase_name(position.phase);
    const bool is_head = position.layer < 0 && (position.phase == ExportPhase::calibrating ||
                                                position.phase == ExportPhase::quantizing);
    if (position.layer >= 0) {
      bar_.start(fmt::format("layer {}/{} {}", position.layer + 1,
                             source_->config().num_hidden_layers, name));
    } else {
      bar_.start(is_head ? "head " + name : name);
    }
  }

  Result<void> write() {
    if (report_text_) {
      job_.measure = [this](const std::string& folder) {
        bar_.finish();
        fmt::print("report       against {} on {}\n", options_.source, report_text_->eval.data);
        std::fflush(stdout);
        return measure_quality(*report_text_, folder);
      };
    }
    NIBBLE_ASSIGN_OR_RETURN(
        report_, quantize::export_checkpoint(
                     *compute_.device, *source_, *checkpoint_, calibration_.table, job_, *folder_,
                     [this](const ExportPosition& position) { return show(position); }));
    bar_.finish();
    return {};
  }

  void print_coverage() const {
    const quantize::CalibrationSummary& calibration = report_.calibration;
    for (size_t layer = 0; layer < calibration.experts_seen.size(); ++layer) {
      fmt::print("coverage     layer {}: {} of {} experts\n", layer,
                 calibration.experts_seen[layer], calibration.experts_per_layer);
    }
    if (calibration.seen() == calibration.total()) return;
    fmt::print("             (an expert without tokens takes its layer's common input scale)\n");
  }

  void print_report() const {
    print_coverage();
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
  quantize::StatisticsNeeds needs_;
  std::unique_ptr<quantize::Calibrator> calibrator_;
  std::optional<quantize::StatisticsFile> statistics_file_;
  std::optional<quantize::StatisticsRecorder> recorder_;
  Progress bar_{"quantizing"};
  ExportPosition shown_{ExportPhase::publishing, -2, 0, 0};  // no phase that is ever entered
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
