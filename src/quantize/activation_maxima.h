// ActivationMaxima: the largest magnitudes seen at the places a quantized model needs a scale for.
//
// Kept under ModelOpt's quantizer names, so its calibration tables can be read in place of a
// calibration run (quantizer_names.h).
#pragma once

#include "base/result.h"

#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace nibble::quantize {

class ActivationMaxima {
 public:
  /// Reads a table: header line with columns "quantizer" and "amax", tab separated; amax is the
  /// hexadecimal bit pattern of an f32, "-" (none, the row is skipped), or "#n" and the largest of
  /// n block maxima. Where a column "global_amax" has a value it is taken instead (searched
  /// weights: the tensor's maximum). Other columns are ignored. Every bad line is listed
  /// (invalid_argument).
  static Result<ActivationMaxima> read_table(const std::string& path);
  /// The same from the table's text; `what` names it in errors.
  static Result<ActivationMaxima> parse_table(std::string_view text, const std::string& what);
  /// The table of all maxima, as read_table reads it.
  std::string table() const;

  std::optional<float> find(const std::string& quantizer) const;
  /// Raises the maximum of `quantizer`; NaN sticks.
  void raise(const std::string& quantizer, float magnitude);
  /// Raises all that `other` has.
  void raise(const ActivationMaxima& other);
  const std::map<std::string, float>& values() const { return values_; }

 private:
  std::map<std::string, float> values_;
};

}  // namespace nibble::quantize
