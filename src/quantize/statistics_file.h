// Statistics of a calibration in a file: saved by the run that gathers them, read by later ones in
// place of a forward pass.
//
// A safetensors file: "source" and "calibration" say what it was made from (text), "summary" is a
// CalibrationSummary; of each layer N ("head" for the head's) "layer.N.maxima" (a table as text),
// "layer.N.experts_seen", and its moments where they were gathered.
#pragma once

#include "formats/checkpoint.h"
#include "formats/safetensors_reader.h"
#include "quantize/calibration_summary.h"
#include "quantize/layer_statistics.h"

#include <string>
#include <utility>

namespace nibble::quantize {

/// Digests of what statistics depend on.
struct StatisticsIdentity {
  std::string source;
  std::string calibration;
};

/// Digest of a checkpoint: config.json, and of every tensor name, type, shape and first bytes.
Result<std::string> source_digest(const formats::Checkpoint& checkpoint,
                                  const std::string& directory);

/// Move-only. Any thread.
class StatisticsFile {
 public:
  /// Errors: no such file; one made from something else, naming both (invalid_argument); one
  /// without moments where they are needed (invalid_argument).
  static Result<StatisticsFile> open(const std::string& path, const StatisticsIdentity& wanted,
                                     bool needs_moments);

  const CalibrationSummary& summary() const { return summary_; }
  Result<LayerStatistics> layer(int index) const;

 private:
  explicit StatisticsFile(formats::SafetensorsReader file) : file_(std::move(file)) {}

  formats::SafetensorsReader file_;
  CalibrationSummary summary_;
};

/// Hands statistics on and keeps them: a note for each layer, so that a run that was killed need
/// not gather them again, and the file when the head's have come. One thread.
class StatisticsRecorder {
 public:
  /// scratch: notes are files whose paths begin like this.
  StatisticsRecorder(std::string path, std::string scratch, StatisticsIdentity identity,
                     CalibrationSummary summary, int num_layers)
      : path_(std::move(path)),
        scratch_(std::move(scratch)),
        identity_(std::move(identity)),
        summary_(std::move(summary)),
        num_layers_(num_layers) {}

  Result<void> add(int layer, const LayerStatistics& statistics) const;

 private:
  std::string note_of(int layer) const;
  Result<void> write_file() const;

  std::string path_;
  std::string scratch_;
  StatisticsIdentity identity_;
  CalibrationSummary summary_;
  int num_layers_;
};

}  // namespace nibble::quantize
