#include "quantize/activation_maxima.h"

#include "base/file.h"
#include "base/problems.h"
#include "formats/nvfp4_encode.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <string_view>
#include <vector>

namespace nibble::quantize {
namespace {

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

// "40dc0000", or the last word of "#1024 3e4c0000".
std::optional<float> parse_amax(std::string_view text) {
  if (text.starts_with('#')) text.remove_prefix(std::min(text.size(), text.find(' ') + 1));
  uint32_t bits = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), bits, 16);
  if (failure != std::errc() || end != text.data() + text.size() || text.size() != 8) {
    return std::nullopt;
  }
  return std::bit_cast<float>(bits);
}

// The columns that matter, from the header line.
struct Columns {
  size_t quantizer = SIZE_MAX;
  size_t amax = SIZE_MAX;
  size_t global_amax = SIZE_MAX;  // may be absent

  explicit Columns(const std::vector<std::string_view>& header) {
    for (size_t i = 0; i < header.size(); ++i) {
      if (header[i] == "quantizer") quantizer = i;
      if (header[i] == "amax") amax = i;
      if (header[i] == "global_amax") global_amax = i;
    }
  }
  bool complete() const { return quantizer != SIZE_MAX && amax != SIZE_MAX; }
  size_t needed() const { return std::max(quantizer, amax) + 1; }
  /// The maximum of the whole tensor.
  std::string_view amax_of(const std::vector<std::string_view>& cells) const {
    const bool has_global = global_amax < cells.size() && cells[global_amax] != "-";
    return cells[has_global ? global_amax : amax];
  }
};

}  // namespace

Result<ActivationMaxima> ActivationMaxima::read_table(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_table(text, path);
}

Result<ActivationMaxima> ActivationMaxima::parse_table(std::string_view text,
                                                       const std::string& what) {
  const std::vector<std::string_view> lines = split(text, '\n');
  const auto cells_of = [&](size_t i) {
    return split(lines[i].substr(0, lines[i].find('\r')), '\t');
  };
  const Columns columns(cells_of(0));
  if (!columns.complete()) {
    return Error{ErrorCode::invalid_argument,
                 what + ": line 1: expected the columns 'quantizer' and 'amax', separated by tabs"};
  }
  ActivationMaxima out;
  Problems problems;
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string_view> cells = cells_of(i);
    if (cells.size() == 1 && cells[0].empty()) continue;
    if (cells.size() < columns.needed()) {
      problems.add(fmt::format("line {}: {} columns, expected at least {}", i + 1, cells.size(),
                               columns.needed()));
      continue;
    }
    const std::string_view written = columns.amax_of(cells);
    if (written == "-") continue;
    const std::optional<float> amax = parse_amax(written);
    if (!amax) {
      problems.add(
          fmt::format("line {}: amax '{}', expected eight hexadecimal digits", i + 1, written));
    } else if (!out.values_.emplace(cells[columns.quantizer], *amax).second) {
      problems.add(
          fmt::format("line {}: quantizer '{}' appears twice", i + 1, cells[columns.quantizer]));
    }
  }
  if (!problems.empty()) return problems.error(ErrorCode::invalid_argument, what);
  return out;
}

std::string ActivationMaxima::table() const {
  std::string out = "quantizer\tamax\n";
  for (const auto& [quantizer, amax] : values_) {
    out += fmt::format("{}\t{:08x}\n", quantizer, std::bit_cast<uint32_t>(amax));
  }
  return out;
}

std::optional<float> ActivationMaxima::find(const std::string& quantizer) const {
  const auto it = values_.find(quantizer);
  if (it == values_.end()) return std::nullopt;
  return it->second;
}

void ActivationMaxima::raise(const std::string& quantizer, float magnitude) {
  const auto [it, inserted] = values_.emplace(quantizer, magnitude);
  if (!inserted) it->second = formats::max_or_nan(it->second, magnitude);
}

void ActivationMaxima::raise(const ActivationMaxima& other) {
  for (const auto& [quantizer, amax] : other.values_) raise(quantizer, amax);
}

}  // namespace nibble::quantize
