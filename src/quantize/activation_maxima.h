// ActivationMaxima: the largest magnitudes seen at the places a quantized model needs a scale for.
//
// Kept under ModelOpt's quantizer names, so its calibration tables can be read in place of a
// calibration run:
//   LAYER.mlp.experts.gate_up_proj_input_quantizer, LAYER.self_attn.k_bmm_quantizer, ...
#pragma once

#include "base/result.h"

#include <map>
#include <optional>
#include <string>

namespace nibble::quantize {

class ActivationMaxima {
 public:
  /// Reads a table: header line with columns "quantizer" and "amax", tab separated; amax is the
  /// hexadecimal bit pattern of an f32, "-" (none, the row is skipped), or "#n" and the largest of
  /// n block maxima. Other columns are ignored. Every bad line is listed (invalid_argument).
  static Result<ActivationMaxima> read_table(const std::string& path);
  /// The table of all maxima, as read_table reads it.
  std::string table() const;

  std::optional<float> find(const std::string& quantizer) const;
  /// Raises the maximum of `quantizer`; NaN sticks.
  void raise(const std::string& quantizer, float magnitude);
  const std::map<std::string, float>& values() const { return values_; }

 private:
  std::map<std::string, float> values_;
};

/// Quantizer names of one layer.
struct QuantizerNames {
  explicit QuantizerNames(const std::string& layer_prefix);  // "model.language_model.layers.0."
  std::string experts_gate_up_input, experts_down_input;
  std::string shared_gate_input, shared_up_input, shared_down_input;
  std::string k, v;
  std::string expert_gate_up_weight(int64_t expert) const;
  std::string expert_down_weight(int64_t expert) const;
  std::string shared_weight(const char* projection) const;  // "gate_proj"

 private:
  std::string mlp_;
};

}  // namespace nibble::quantize
