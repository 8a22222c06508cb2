#include "cli/calibration_choice.h"

#include "base/file.h"
#include "base/hash.h"
#include "cli/calibration_text.h"
#include "quantize/token_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <span>

namespace nibble::cli {
namespace {

// Reports name files, not where they lay.
std::string file_name(const std::string& path) {
  return std::filesystem::path(path).filename().string();
}

int64_t count_tokens(const std::vector<std::vector<int32_t>>& sequences) {
  int64_t count = 0;
  for (const auto& sequence : sequences) count += static_cast<int64_t>(sequence.size());
  return count;
}

// First samples only, cut to the wanted length; returns how many were cut.
int64_t limit_sequences(std::vector<std::vector<int32_t>>& sequences,
                        const QuantizeOptions& options) {
  const auto length = static_cast<size_t>(options.calib_length);
  sequences.resize(std::min(sequences.size(), static_cast<size_t>(options.calib_samples)));
  int64_t shortened = 0;
  for (std::vector<int32_t>& sequence : sequences) {
    shortened += sequence.size() > length;
    sequence.resize(std::min(sequence.size(), length));
  }
  return shortened;
}

Result<Calibration> calibration_sequences(const QuantizeOptions& options, const std::string& text) {
  Calibration out;
  int64_t shortened = 0;
  if (!options.calib_tokens.empty()) {
    NIBBLE_ASSIGN_OR_RETURN(out.sequences, quantize::read_token_file(options.calib_tokens));
    shortened = limit_sequences(out.sequences, options);
  } else {
    NIBBLE_ASSIGN_OR_RETURN(
        CalibrationText read,
        read_calibration_text(text, options.source, static_cast<size_t>(options.calib_samples),
                              static_cast<size_t>(options.calib_length)));
    out.sequences = std::move(read.sequences);
    shortened = read.shortened;
  }
  out.summary.tokens = count_tokens(out.sequences);
  out.summary.data =
      fmt::format("{} samples, {} tokens of {}", out.sequences.size(), out.summary.tokens,
                  file_name(options.calib_tokens.empty() ? text : options.calib_tokens));
  if (shortened > 0) {
    out.summary.data += fmt::format(" ({} cut to {} tokens)", shortened, options.calib_length);
  }
  std::string identity = options.arithmetic;
  if (options.force_all_experts) identity += " all experts";
  for (const std::vector<int32_t>& sequence : out.sequences) {
    identity += fmt::format("\n{}", fmt::join(sequence, " "));
  }
  out.digest = sha256_hex(std::as_bytes(std::span(identity)));
  return out;
}

Error nothing_to_calibrate_with(const std::string& source, const quantize::StatisticsNeeds& needs) {
  std::string message =
      "no calibration data: " + source +
      " has no calibration.jsonl. Give one of\n"
      "  --calib FILE.jsonl        one record a line: {\"text\"}, {\"article\"} or "
      "{\"messages\", \"tools\"?, \"thinking\"?}\n"
      "  --calib FILE.txt          documents separated by a line <|endoftext|>, "
      "or one text; both may end in .gz or .zst\n"
      "  --calib-tokens FILE.json  token ids: [[1, 2, 3], [4, 5]]\n";
  // The text is wanted by the search alone, whose default a user of such a recipe may not know.
  message += needs.maxima
                 ? "  --amax FILE.tsv           calibrated maxima: columns quantizer and amax"
                 : "  --scales mse              nothing else in this recipe needs the text; "
                   "this search looks at the weights alone";
  return {ErrorCode::invalid_argument, std::move(message)};
}

}  // namespace

Result<Calibration> choose_calibration(const QuantizeOptions& options,
                                       const quantize::StatisticsNeeds& needs) {
  const int given = (options.amax.empty() ? 0 : 1) + (options.calib.empty() ? 0 : 1) +
                    (options.calib_tokens.empty() ? 0 : 1);
  if (given > 1) {
    return Error{ErrorCode::invalid_argument,
                 "--amax, --calib and --calib-tokens: give one of them"};
  }
  for (const std::string& file : {options.amax, options.calib, options.calib_tokens}) {
    if (!file.empty() && !file_exists(file)) {
      return Error{ErrorCode::invalid_argument, file + ": no such file"};
    }
  }
  if (!options.amax.empty()) {
    Calibration out;
    NIBBLE_ASSIGN_OR_RETURN(out.table, quantize::ActivationMaxima::read_table(options.amax));
    out.summary.data =
        fmt::format("{} maxima of {}", out.table.values().size(), file_name(options.amax));
    const std::string table = out.table.table();
    out.digest = sha256_hex(std::as_bytes(std::span(table)));
    return out;
  }
  if (!needs.any()) {
    Calibration out;
    out.summary.data = "none: nothing that this recipe writes depends on it";
    return out;
  }
  std::string text = options.calib;
  if (text.empty() && options.calib_tokens.empty()) {
    text = options.source + "/calibration.jsonl";
    if (!file_exists(text)) return nothing_to_calibrate_with(options.source, needs);
  }
  return calibration_sequences(options, text);
}

}  // namespace nibble::cli
