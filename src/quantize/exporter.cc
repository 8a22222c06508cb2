#include "quantize/exporter.h"

#include "base/file.h"
#include "base/problems.h"
#include "formats/checkpoint_writer.h"
#include "formats/nvfp4_search.h"
#include "quantize/export_files.h"
#include "quantize/export_layout.h"
#include "quantize/run_state.h"
#include "quantize/unit_exporter.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;
using model::Member;

// One run, from its plan to the published folder.
class Exporter {
 public:
  Exporter(device::Device& device, model::CheckpointSource& source,
           const formats::Checkpoint& checkpoint, const ExportJob& job, OutputFolder& folder,
           const ExportProgress& progress)
      : device_(device),
        source_(source),
        checkpoint_(checkpoint),
        job_(job),
        folder_(folder),
        progress_(progress) {}

  Result<ExportReport> run(const ActivationMaxima& maxima);

 private:
  Result<void> begin(const ActivationMaxima& maxima);
  Result<void> open_shards();
  Result<void> run_unit(const ExportUnit& unit);
  Result<LayerStatistics> statistics_of(const ExportUnit& unit);
  Result<void> refuse(size_t next_unit);
  Result<ExportReport> finish();
  Result<void> enter(ExportPhase phase, int layer);
  UnitExporter::Output output() { return {*sink_, state_.errors, state_.maxima}; }

  device::Device& device_;
  model::CheckpointSource& source_;
  const formats::Checkpoint& checkpoint_;
  const ExportJob& job_;
  OutputFolder& folder_;
  const ExportProgress& progress_;
  FormatPlan plan_;
  ExportLayout layout_;
  ScaleTable scales_;
  RunState state_;
  ExportPosition position_;
  std::unique_ptr<TensorSink> sink_;
  std::unique_ptr<UnitExporter> exporter_;
};

Result<void> Exporter::enter(ExportPhase phase, int layer) {
  position_.phase = phase;
  position_.layer = layer;
  return sink_->poll();
}

Result<void> Exporter::begin(const ActivationMaxima& maxima) {
  NIBBLE_ASSIGN_OR_RETURN(plan_, FormatPlan::make(source_.config(), source_.prefix(), job_.recipe,
                                                  job_.compat, job_.rules));
  layout_ = ExportLayout::make(source_, checkpoint_, plan_);
  if (folder_.continues()) {
    NIBBLE_ASSIGN_OR_RETURN(state_, RunState::read(folder_.progress_note()));
  }
  state_.maxima.raise(maxima);
  // Given maxima are judged before anything is made of them.
  std::vector<int> known;
  for (size_t i = 1; i < layout_.units.size(); ++i) {
    const bool done = static_cast<int64_t>(i) < state_.units_done;
    if (done || !job_.statistics) known.push_back(layout_.units[i].layer);
  }
  scales_ = ScaleTable(source_.prefix(), plan_, job_.compat);
  NIBBLE_RETURN_IF_ERROR(scales_.add(known, state_.maxima));
  exporter_ = std::make_unique<UnitExporter>(device_, source_, checkpoint_, job_, plan_, scales_);
  return open_shards();
}

Result<void> Exporter::open_shards() {
  const auto written = layout_.written(state_.units_done);
  NIBBLE_ASSIGN_OR_RETURN(
      auto writer, formats::CheckpointWriter::create(
                       folder_.partial(), layout_.tensors, job_.max_shard_bytes,
                       [&written](std::string_view name) { return written.contains(name); }));
  position_.total_bytes = static_cast<int64_t>(writer.total_bytes());
  sink_ = std::make_unique<TensorSink>(std::move(writer), [this](int64_t bytes) {
    position_.done_bytes = bytes;
    return progress_(position_);
  });
  for (size_t i = 0; i < written.size(); ++i) {
    sink_->skip(static_cast<int64_t>(layout_.tensors[i].bytes()));
  }
  return {};
}

// A layer that is not finite is not run: its numbers would only show in the maxima.
Result<LayerStatistics> Exporter::statistics_of(const ExportUnit& unit) {
  const bool is_copies = unit.layer == kOutsideLayers && !unit.is_head;
  if (!job_.statistics || is_copies) return LayerStatistics();
  NIBBLE_RETURN_IF_ERROR(enter(ExportPhase::calibrating, unit.layer));
  NIBBLE_RETURN_IF_ERROR(exporter_->scan(unit, output()));
  if (!exporter_->not_finite().empty()) return LayerStatistics();
  NIBBLE_ASSIGN_OR_RETURN(LayerStatistics statistics, job_.statistics(unit.layer));
  state_.maxima.raise(statistics.maxima);
  if (unit.layer != kOutsideLayers) state_.experts_seen.push_back(statistics.experts_seen);
  NIBBLE_RETURN_IF_ERROR(scales_.add(std::span(&unit.layer, 1), state_.maxima));
  return statistics;
}

Result<void> Exporter::run_unit(const ExportUnit& unit) {
  NIBBLE_ASSIGN_OR_RETURN(const LayerStatistics statistics, statistics_of(unit));
  if (!exporter_->not_finite().empty()) return {};
  const bool is_copies = unit.layer == kOutsideLayers && !unit.is_head;
  NIBBLE_RETURN_IF_ERROR(
      enter(is_copies ? ExportPhase::copying : ExportPhase::quantizing, unit.layer));
  NIBBLE_RETURN_IF_ERROR(exporter_->write(unit, statistics, output()));
  if (!exporter_->not_finite().empty()) return {};
  // What the note says is done must be on the disk before the note.
  NIBBLE_RETURN_IF_ERROR(sink_->sync());
  ++state_.units_done;
  return state_.write(folder_.progress_note());
}

// The same source will never do: the rest of it is read for more of what is wrong.
Result<void> Exporter::refuse(size_t next_unit) {
  for (size_t i = next_unit; i < layout_.units.size(); ++i) {
    NIBBLE_RETURN_IF_ERROR(exporter_->scan(layout_.units[i], output()));
  }
  folder_.discard();
  return exporter_->not_finite().error(ErrorCode::corrupt, job_.source_directory);
}

Result<ExportReport> Exporter::finish() {
  NIBBLE_RETURN_IF_ERROR(enter(ExportPhase::publishing, kOutsideLayers));
  NIBBLE_RETURN_IF_ERROR(sink_->finish());
  ExportReport report;
  report.quantized_weights = layout_.quantized_weights;
  report.quantized_bytes = layout_.quantized_bytes;
  report.all_weights = layout_.all_weights;
  report.source_bytes = static_cast<int64_t>(checkpoint_.total_bytes());
  report.destination_bytes = sink_->total_bytes();
  report.errors = state_.errors.groups();
  report.warnings = scales_.warnings();
  report.calibration = job_.calibration;
  if (job_.calibration.tokens > 0) {
    report.calibration.experts_per_layer = source_.config().num_experts;
    report.calibration.experts_seen = state_.experts_seen;
  }
  NIBBLE_RETURN_IF_ERROR(write_configuration(source_, checkpoint_, plan_, job_, folder_));
  if (job_.measure) {
    NIBBLE_ASSIGN_OR_RETURN(report.quality, job_.measure(folder_.partial()));
  }
  NIBBLE_RETURN_IF_ERROR(write_report(job_, report, folder_));
  NIBBLE_RETURN_IF_ERROR(folder_.publish());
  return report;
}

Result<ExportReport> Exporter::run(const ActivationMaxima& maxima) {
  NIBBLE_RETURN_IF_ERROR(begin(maxima));
  for (auto i = static_cast<size_t>(state_.units_done); i < layout_.units.size(); ++i) {
    NIBBLE_RETURN_IF_ERROR(run_unit(layout_.units[i]));
    if (!exporter_->not_finite().empty()) return refuse(i + 1).error();
  }
  return finish();
}

}  // namespace

StatisticsNeeds statistics_needs(const FormatPlan& plan, formats::ScaleMethod scales) {
  StatisticsNeeds needs;
  needs.moments = scales == formats::ScaleMethod::hessian;
  needs.inputs = scales == formats::ScaleMethod::gptq;
  const auto look = [&](Member member, int layer) {
    needs.maxima |= has_input_scale(plan.of(member, layer));
  };
  for (int layer = 0; layer < static_cast<int>(plan.layer_types().size()); ++layer) {
    for (const Member member : kExpertMembers) look(member, layer);
    for (const Member member : kSharedMembers) look(member, layer);
    for (const Member member : plan.dense_members(layer)) look(member, layer);
    needs.maxima |= plan.has_kv_scales(layer);
  }
  look(Member::lm_head, kOutsideLayers);
  return needs;
}

Result<StatisticsNeeds> check_quantizable(const model::CheckpointSource& source,
                                          const ExportJob& job) {
  NIBBLE_ASSIGN_OR_RETURN(
      const FormatPlan plan,
      FormatPlan::make(source.config(), source.prefix(), job.recipe, job.compat, job.rules));
  Problems problems;
  const auto check = [&](const std::string& module, formats::WeightFormat format) {
    if (format == formats::WeightFormat::bf16) return;
    problems.add(fmt::format("{}: already stored as {}, expected BF16", module,
                             formats::weight_format_name(format)));
  };
  for (int layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    check(fmt::format("layer {}: experts", layer), source.expert_format(layer, false));
    check(fmt::format("layer {}: shared expert", layer), source.expert_format(layer, true));
    for (const Member member : plan.dense_members(layer)) {
      check(source.prefix().stem(member, layer), source.format(member, layer));
    }
  }
  check(source.prefix().stem(Member::lm_head, kOutsideLayers),
        source.format(Member::lm_head, kOutsideLayers));
  if (!problems.empty()) return problems.error(ErrorCode::unsupported, job.source_directory);
  return statistics_needs(plan, job.scales);
}

Result<std::string> describe_job(const formats::Checkpoint& checkpoint, const ExportJob& job,
                                 const std::string& calibration) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string config,
                          read_file(job.source_directory + "/config.json"));
  std::string text = fmt::format(
      "nibble quantize 3\nrecipe {}\nscales {}\ncompat {} {} {}\nshards {}\ncalibration {}\n",
      job.recipe.name, formats::scale_method_name(job.scales), static_cast<int>(job.compat.version),
      static_cast<int>(job.compat.rules.division), job.compat.rules.clamps_block_scales,
      job.max_shard_bytes, calibration);
  for (const FormatRule& rule : job.rules) {
    text += fmt::format("rule {} {}\n", rule.pattern, module_format_name(rule.format));
  }
  std::error_code ignored;
  for (const formats::SafetensorsReader& shard : checkpoint.shards()) {
    const std::string path = fs::absolute(shard.path(), ignored).lexically_normal().string();
    const auto time = fs::last_write_time(path, ignored).time_since_epoch().count();
    text += fmt::format("{} {} {}\n", path, fs::file_size(path, ignored), time);
  }
  return text + config;
}

Result<ExportReport> export_checkpoint(device::Device& device, model::CheckpointSource& source,
                                       const formats::Checkpoint& checkpoint,
                                       const ActivationMaxima& maxima, const ExportJob& job,
                                       OutputFolder& folder, const ExportProgress& progress) {
  return Exporter(device, source, checkpoint, job, folder, progress).run(maxima);
}

}  // namespace nibble::quantize
