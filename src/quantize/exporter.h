// The quantization of a checkpoint: one pass over its layers, each calibrated, written and noted as
// done before the next (spec nvfp4.md 2 for the layout).
//
// Fills an OutputFolder and publishes it when everything is there and synced: a folder with the
// final name is complete. A run of the same job that was killed is continued behind the last layer
// that was done; the result has the same bytes.
#pragma once

#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"
#include "quantize/error_log.h"
#include "quantize/export_job.h"
#include "quantize/measured_quality.h"
#include "quantize/output_folder.h"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace nibble::quantize {

struct ExportReport {
  int64_t source_bytes = 0;  // tensors of the source
  int64_t destination_bytes = 0;  // tensors written
  int64_t quantized_weights = 0;  // elements now in NVFP4 or FP8
  int64_t quantized_bytes = 0;  // their codes, scales and scalars
  int64_t all_weights = 0;  // elements of all tensors of the source
  CalibrationSummary calibration;
  std::map<std::string, GroupError> errors;
  std::vector<std::string> warnings;
  std::optional<MeasuredQuality> quality;
};

enum class ExportPhase { copying, calibrating, quantizing, publishing };

/// Where a run is.
struct ExportPosition {
  ExportPhase phase = ExportPhase::copying;
  int layer = -1;  // kOutsideLayers: copies, head
  int64_t done_bytes = 0;  // of the result
  int64_t total_bytes = 0;
};

/// Called before each tensor and each phase; false stops with ErrorCode::cancelled and keeps the
/// work.
using ExportProgress = std::function<bool(const ExportPosition& position)>;

/// What can be known to be wrong before calibrating: matrices that are quantized already, all
/// listed (unsupported); what FormatPlan::make refuses. Returns what the job needs.
Result<StatisticsNeeds> check_quantizable(const model::CheckpointSource& source,
                                          const ExportJob& job);

/// The text for OutputFolder::open: everything that decides the result's bytes. `calibration` names
/// where the maxima come from (a digest of table or tokens).
Result<std::string> describe_job(const formats::Checkpoint& checkpoint, const ExportJob& job,
                                 const std::string& calibration);

/// `maxima`: those known beforehand; job.statistics adds to them. Errors, each listing all it
/// found: maxima that are missing or not finite (invalid_argument), weights that are not finite
/// (corrupt; the partial folder is removed). `checkpoint` is what `source` reads from.
Result<ExportReport> export_checkpoint(device::Device& device, model::CheckpointSource& source,
                                       const formats::Checkpoint& checkpoint,
                                       const ActivationMaxima& maxima, const ExportJob& job,
                                       OutputFolder& folder, const ExportProgress& progress);

}  // namespace nibble::quantize
