// Exporter: writes the quantized checkpoint, tensor by tensor, in ModelOpt's layout (spec nvfp4.md
// 2).
//
// Fills an OutputFolder and publishes it when everything is there and synced: a folder with the
// final name is complete. Shards that an interrupted export of the same job finished are kept. One
// matrix is in memory at a time, the source is mapped.
#pragma once

#include "device/device.h"
#include "formats/checkpoint.h"
#include "formats/checkpoint_writer.h"
#include "model/checkpoint_source.h"
#include "quantize/activation_maxima.h"
#include "quantize/calibration_summary.h"
#include "quantize/error_log.h"
#include "quantize/format_plan.h"
#include "quantize/measured_quality.h"
#include "quantize/moments.h"
#include "quantize/output_folder.h"

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace nibble::quantize {

/// Second moments of one layer's inputs (kOutsideLayers: of the head's).
using MomentSource = std::function<Result<LayerMoments>(int layer)>;

struct ExportJob {
  std::string source_directory;
  Recipe recipe;
  Compat compat;
  std::vector<FormatRule> rules;
  formats::ScaleMethod scales = formats::ScaleMethod::max;
  MomentSource moments;  // for hessian
  size_t max_shard_bytes = formats::kMaxShardBytes;
  /// What the written folder is worth, measured before it is published; may be empty.
  std::function<Result<MeasuredQuality>(const std::string& folder)> measure;
  // Only told in the report.
  std::string producer = "nibble";
  CalibrationSummary calibration;
};

struct ExportReport {
  int64_t source_bytes = 0;  // tensors of the source
  int64_t destination_bytes = 0;  // tensors written
  int64_t quantized_weights = 0;  // elements now in NVFP4 or FP8
  int64_t quantized_bytes = 0;  // their codes, scales and scalars
  int64_t all_weights = 0;  // elements of all tensors of the source
  std::map<std::string, GroupError> errors;
  std::vector<std::string> warnings;
  std::optional<MeasuredQuality> quality;
};

/// Called with (bytes written, bytes in all); false stops with ErrorCode::cancelled and keeps the
/// partial work.
using ExportProgress = std::function<bool(int64_t done, int64_t total)>;

/// What can be known to be wrong before calibrating: matrices that are quantized already, all
/// listed (unsupported); what FormatPlan::make refuses.
Result<void> check_quantizable(const model::CheckpointSource& source, const ExportJob& job);

/// The text for OutputFolder::open: everything that decides the result's bytes. `calibration` names
/// where the maxima come from (a digest of table or tokens).
Result<std::string> describe_job(const formats::Checkpoint& checkpoint, const ExportJob& job,
                                 const std::string& calibration);

/// Errors, each listing all it found: maxima that are missing or not finite (invalid_argument),
/// weights that are not finite (corrupt; the partial folder is removed). `checkpoint` is what
/// `source` reads from.
Result<ExportReport> export_checkpoint(device::Device& device, model::CheckpointSource& source,
                                       const formats::Checkpoint& checkpoint,
                                       const ActivationMaxima& maxima, const ExportJob& job,
                                       OutputFolder& folder, const ExportProgress& progress);

}  // namespace nibble::quantize
