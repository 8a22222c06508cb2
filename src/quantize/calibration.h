// Calibration: runs sequences of tokens through the model layer by layer and keeps the activation
// maxima, and on request second moments.
//
// One layer's weights are in memory at a time; the hidden rows of all sequences stay. Every
// sequence is run alone, from an empty state (spec nvfp4.md 3.1: no padding). Token ids only; text
// becomes tokens in cli/.
#pragma once

#include "device/device.h"
#include "model/checkpoint_source.h"
#include "quantize/activation_maxima.h"
#include "quantize/moments.h"

#include <functional>
#include <vector>

namespace nibble::quantize {

struct CalibrationRequest {
  /// Must not be empty; token ids are checked against the vocabulary.
  std::vector<std::vector<int32_t>> sequences;
  /// Gets the second moments of each layer's inputs, then of the head's (kOutsideLayers); none are
  /// gathered without it.
  std::function<Result<void>(int layer, const LayerMoments&)> moments;
};

struct CalibrationResult {
  ActivationMaxima maxima;
  int64_t experts_seen = 0;  // (layer, expert) pairs that got at least one token
  std::vector<int64_t> experts_seen_by_layer;
  int64_t experts_total = 0;
  int64_t tokens = 0;
};

/// Called with (layers done, layers in all); false stops with ErrorCode::cancelled.
using CalibrationProgress = std::function<bool(int done, int total)>;

/// Errors: a token outside the vocabulary (invalid_argument); what `moments` returns.
Result<CalibrationResult> calibrate(device::Device& device, model::CheckpointSource& source,
                                    const CalibrationRequest& request,
                                    const CalibrationProgress& progress);

}  // namespace nibble::quantize
