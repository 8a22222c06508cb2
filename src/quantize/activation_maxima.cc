#include "quantize/activation_maxima.h"

#include "base/file.h"

#include <fmt/format.h>

#include <bit>
#include <charconv>
#include <cmath>
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

std::optional<float> parse_bits(std::string_view text) {
  uint32_t bits = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), bits, 16);
  if (failure != std::errc() || end != text.data() + text.size() || text.size() != 8)
    return std::nullopt;
  return std::bit_cast<float>(bits);
}

}  // namespace

Result<ActivationMaxima> ActivationMaxima::read_table(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  ActivationMaxima out;
  size_t name_column = SIZE_MAX;
  size_t amax_column = SIZE_MAX;
  int64_t line_number = 0;
  for (std::string_view line : split(text, '\n')) {
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::vector<std::string_view> cells = split(line, '\t');
    if (line_number == 1) {
      for (size_t i = 0; i < cells.size(); ++i) {
        if (cells[i] == "quantizer") name_column = i;
        if (cells[i] == "amax") amax_column = i;
      }
      if (name_column == SIZE_MAX || amax_column == SIZE_MAX) {
        return Error{ErrorCode::corrupt,
                     path + ": line 1: expected the columns 'quantizer' and 'amax'"};
      }
      continue;
    }
    if (cells.size() <= std::max(name_column, amax_column)) {
      return Error{ErrorCode::corrupt,
                   fmt::format("{}: line {}: {} columns, expected at least {}", path, line_number,
                               cells.size(), std::max(name_column, amax_column) + 1)};
    }
    const std::optional<float> amax = parse_bits(cells[amax_column]);
    if (!amax) {
      return Error{ErrorCode::corrupt,
                   fmt::format("{}: line {}: amax '{}', expected eight hexadecimal digits", path,
                               line_number, cells[amax_column])};
    }
    out.values_[std::string(cells[name_column])] = *amax;
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
  if (!inserted && !(magnitude <= it->second)) it->second = magnitude;
}

QuantizerNames::QuantizerNames(const std::string& layer_prefix)
    : experts_gate_up_input(layer_prefix + "mlp.experts.gate_up_proj_input_quantizer"),
      experts_down_input(layer_prefix + "mlp.experts.down_proj_input_quantizer"),
      shared_gate_input(layer_prefix + "mlp.shared_expert.gate_proj.input_quantizer"),
      shared_up_input(layer_prefix + "mlp.shared_expert.up_proj.input_quantizer"),
      shared_down_input(layer_prefix + "mlp.shared_expert.down_proj.input_quantizer"),
      k(layer_prefix + "self_attn.k_bmm_quantizer"),
      v(layer_prefix + "self_attn.v_bmm_quantizer"),
      mlp_(layer_prefix + "mlp.") {}

std::string QuantizerNames::expert_gate_up_weight(int64_t expert) const {
  return mlp_ + "experts.gate_up_proj_weight_quantizers." + std::to_string(expert);
}

std::string QuantizerNames::expert_down_weight(int64_t expert) const {
  return mlp_ + "experts.down_proj_weight_quantizers." + std::to_string(expert);
}

std::string QuantizerNames::shared_weight(const char* projection) const {
  return mlp_ + "shared_expert." + projection + ".weight_quantizer";
}

}  // namespace nibble::quantize
