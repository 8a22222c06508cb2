// Which calibration a quantize command asked for: a table of maxima, or token sequences to run.
#pragma once

#include "base/result.h"
#include "cli/options.h"
#include "quantize/activation_maxima.h"
#include "quantize/calibration_summary.h"
#include "quantize/export_job.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cli {

/// Where the activation maxima come from.
struct Calibration {
  quantize::CalibrationSummary summary;  // coverage is filled in by the run
  std::string digest;  // of what decides the maxima
  quantize::ActivationMaxima table;
  std::vector<std::vector<int32_t>> sequences;  // empty: the table is given
};

/// Reads what --amax, --calib or --calib-tokens name, else calibration.jsonl of the source. With
/// no needs only a table is read, if one is named (it may clip weights). Errors: more than
/// one of them, none to be found, files of a wrong form (invalid_argument).
Result<Calibration> choose_calibration(const QuantizeOptions& options,
                                       const quantize::StatisticsNeeds& needs);

}  // namespace nibble::cli
