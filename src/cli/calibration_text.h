// Calibration text -> token sequences, for quantize: put together here because quantize/ sees token
// ids only.
//
// .jsonl: one record a line, {"text"}, {"article"} or {"messages", "tools"?, "thinking"?}; messages
// are rendered with the model's own chat template. .txt: documents separated by a line
// <|endoftext|>; a text without that line is cut into consecutive pieces. Either may be packed
// (.gz, .zst).
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>
#include <vector>

namespace nibble::cli {

struct CalibrationText {
  std::vector<std::vector<int32_t>> sequences;  // none empty
  int64_t shortened = 0;  // sequences that were longer than allowed
};

/// The first `max_sequences` samples of `path`, each cut to `max_tokens`. `model_directory`: where
/// tokenizer and chat template are. Errors name the line: invalid_argument for a file of another
/// form, bad records, or without any sample.
Result<CalibrationText> read_calibration_text(const std::string& path,
                                              const std::string& model_directory,
                                              size_t max_sequences, size_t max_tokens);

}  // namespace nibble::cli
