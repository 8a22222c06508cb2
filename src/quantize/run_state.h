// RunState: how far a quantization has come and what it has learnt, as the note that a killed run
// is continued from.
//
// The note is replaced in one step after each unit of work, when all that the unit wrote is synced.
#pragma once

#include "base/result.h"
#include "quantize/activation_maxima.h"
#include "quantize/error_log.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::quantize {

struct RunState {
  int64_t units_done = 0;  // in the order of ExportLayout
  ActivationMaxima maxima;  // of the layers done, and of the table that was given
  std::vector<int64_t> experts_seen;  // by layer done, where tokens were run
  ErrorLog errors;

  /// An unwritten note is a run that has done nothing.
  static Result<RunState> read(const std::string& path);
  Result<void> write(const std::string& path) const;
};

}  // namespace nibble::quantize
