// Exporter: writes the quantized checkpoint, tensor by tensor, in ModelOpt's layout (spec nvfp4.md
// 2).
//
// Works in DESTINATION.partial in the same folder and renames it when everything is there and
// synced: a directory with the final name is complete. An interrupted export is continued when
// source, recipe and maxima are the same.
#pragma once

#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"
#include "quantize/activation_maxima.h"
#include "quantize/recipe.h"

#include <functional>
#include <string>

namespace nibble::quantize {

struct ExportJob {
  std::string source_directory;
  std::string destination;
  Recipe recipe;
  Compat compat;
  bool overwrite = false;
};

struct ExportReport {
  int64_t source_bytes = 0;  // tensors of the source
  int64_t destination_bytes = 0;  // tensors written
  int64_t quantized_weights = 0;  // elements now in NVFP4
  int64_t quantized_bytes = 0;  // their codes, scales and scalars
  int64_t all_weights = 0;  // elements of all tensors of the source
  std::vector<std::string> warnings;
};

/// Called with (bytes written, bytes in all); false stops with ErrorCode::cancelled and keeps the
/// partial work.
using ExportProgress = std::function<bool(int64_t done, int64_t total)>;

/// Errors: maxima that are missing or not finite, weights that are not finite or already quantized,
/// an existing destination without `overwrite`; each message lists all it found.
Result<ExportReport> export_checkpoint(device::Device& device, model::CheckpointSource& source,
                                       const formats::Checkpoint& checkpoint,
                                       const ActivationMaxima& maxima, const ExportJob& job,
                                       const ExportProgress& progress);

}  // namespace nibble::quantize
