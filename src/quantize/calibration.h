// Calibrator: runs sequences of tokens through the model one layer at a time and gathers what each
// layer's linear inputs look like.
//
// One layer's weights and one sequence's hidden rows are in memory; the hidden rows of all tokens
// lie in two files that take turns, so that a run killed inside a layer still has that layer's
// input. Every sequence is run alone, from an empty state (spec nvfp4.md 3.1: no padding). Token
// ids only; text becomes tokens in cli/.
#pragma once

#include "device/device.h"
#include "model/checkpoint_source.h"
#include "quantize/layer_statistics.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace nibble::quantize {

/// What is gathered beside the maxima. noise: behind the sequences as many again of the same
/// lengths and random ids, which count for the inputs only: they say what the layer does with text
/// unlike the calibration's.
struct Gathered {
  bool moments = false;
  bool inputs = false;
  bool noise = false;
};

struct CalibrationRequest {
  /// Must not be empty; token ids are checked against the vocabulary.
  std::vector<std::vector<int32_t>> sequences;
  Gathered gathered;
  /// The experts' maxima are taken as if every token went to every expert. Moments, inputs and the
  /// rows that reach the next layer keep the router's choice (nvfp4.md 3.4).
  bool force_all_experts = false;
  /// Where rows are kept: files whose paths begin like this.
  std::string scratch;
};

/// Called with (sequences done, sequences in all) of the layer; false stops with
/// ErrorCode::cancelled.
using CalibrationProgress = std::function<bool(int64_t done, int64_t total)>;

/// One thread. The device and the source must outlive it.
class Calibrator {
 public:
  /// Errors: a token outside the vocabulary (invalid_argument).
  static Result<std::unique_ptr<Calibrator>> open(device::Device& device,
                                                  model::CheckpointSource& source,
                                                  CalibrationRequest request,
                                                  CalibrationProgress progress);
  ~Calibrator();

  /// Runs one layer; layers in order, kOutsideLayers (the head's input) behind the last. The first
  /// call may name any layer: its input is then what an earlier run left (corrupt when it is not
  /// there). On return the input of the next layer is on the disk.
  Result<LayerStatistics> layer(int index);

 private:
  class Run;
  explicit Calibrator(std::unique_ptr<Run> run);
  std::unique_ptr<Run> run_;
};

}  // namespace nibble::quantize
