// ExportJob: what a quantization is asked to make.
#pragma once

#include "formats/checkpoint_writer.h"
#include "quantize/calibration_summary.h"
#include "quantize/format_plan.h"
#include "quantize/layer_statistics.h"
#include "quantize/measured_quality.h"

#include <functional>
#include <string>
#include <vector>

namespace nibble::quantize {

struct ExportJob {
  std::string source_directory;
  Recipe recipe;
  Compat compat;
  std::vector<FormatRule> rules;
  formats::ScaleMethod scales = formats::ScaleMethod::max;
  /// Null where all maxima are given, or none are needed, and the search takes no moments.
  StatisticsSource statistics;
  size_t max_shard_bytes = formats::kMaxShardBytes;
  /// What the written folder is worth, measured before it is published; may be empty.
  std::function<Result<MeasuredQuality>(const std::string& folder)> measure;
  // Only told in the report.
  std::string producer = "nibble";
  CalibrationSummary calibration;  // which experts were seen is found out by the run
};

/// What a job has to know about a layer's inputs.
struct StatisticsNeeds {
  bool maxima = false;
  bool moments = false;
  bool inputs = false;

  bool any() const { return maxima || moments || inputs; }
};

/// maxima: where a module has an input scale or KV scales are calibrated. moments: for a search
/// that weighs errors with
/// them. inputs: for rounding with error feedback.
StatisticsNeeds statistics_needs(const FormatPlan& plan, formats::ScaleMethod scales);

}  // namespace nibble::quantize
