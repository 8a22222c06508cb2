// CalibrationSummary: what a calibration was done with and how far it reached, kept beside its
// maxima so that a continued run reports the same.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::quantize {

struct CalibrationSummary {
  std::string data;  // "128 samples, 20031 tokens of calibration.jsonl"
  int64_t tokens = 0;  // 0: the maxima came from a table
  int64_t experts_per_layer = 0;
  std::vector<int64_t> experts_seen;  // by layer, with at least one token

  int64_t seen() const;
  int64_t total() const { return experts_per_layer * static_cast<int64_t>(experts_seen.size()); }

  std::string to_json() const;
  /// `what` names the text in errors.
  static Result<CalibrationSummary> parse(const std::string& text, const std::string& what);
};

}  // namespace nibble::quantize
