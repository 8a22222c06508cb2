// The text and the figures of quantize --report: the written checkpoint against its source, both
// layer by layer, on a text that was not calibrated on.
#pragma once

#include "base/result.h"
#include "cli/calibration_choice.h"
#include "cli/options.h"
#include "quantize/measured_quality.h"

#include <string>

namespace nibble::cli {

/// The comparison that --report asks for, its model still to be named. Without a file: SOURCE/eval/
/// heldout.txt or heldout_generated.txt. Documents are scored one by one where the text has lines
/// <|endoftext|>, else windows of 512 tokens in their second halves. Errors: invalid_argument for
/// no text, too little text, and a text that holds calibration samples: its figures would flatter.
Result<KldOptions> choose_report(const QuantizeOptions& options, const Calibration& calibration);

/// Runs it with the checkpoint in `folder`.
Result<quantize::MeasuredQuality> measure_quality(KldOptions comparison, const std::string& folder);

}  // namespace nibble::cli
