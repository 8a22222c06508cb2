// ErrorLog: how far each quantized matrix is from its source, and the sums over groups of them.
#pragma once

#include "device/device.h"

#include <cstdint>
#include <map>
#include <string>

namespace nibble::quantize {

/// Error of the matrices of one kind ("routed experts gate_proj").
struct GroupError {
  int64_t matrices = 0;
  device::WeightError sums;
  double largest = 0;  // relative error of the worst matrix
  std::string largest_name;

  /// sqrt(sum of squared differences / sum of squares); 0 for zero weights.
  double relative() const;
  /// Signal to quantization noise in dB.
  double sqnr() const;
};

class ErrorLog {
 public:
  /// A matrix measured again replaces its first value.
  void add(const std::string& stem, const device::WeightError& error) { errors_[stem] = error; }
  /// By stem.
  const std::map<std::string, device::WeightError>& values() const { return errors_; }

  /// By kind of matrix; "all" sums up.
  std::map<std::string, GroupError> groups() const;

 private:
  std::map<std::string, device::WeightError> errors_;
};

/// What kind of matrix a stem names: its module without layer and expert numbers.
std::string error_group(const std::string& stem);

}  // namespace nibble::quantize
