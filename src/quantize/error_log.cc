#include "quantize/error_log.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace nibble::quantize {
namespace {

double relative_error(const device::WeightError& error) {
  return error.magnitude > 0 ? std::sqrt(error.difference / error.magnitude) : 0;
}

bool is_number(const std::string& word) {
  return !word.empty() && word.find_first_not_of("0123456789") == std::string::npos;
}

}  // namespace

double GroupError::relative() const {
  return relative_error(sums);
}

double GroupError::sqnr() const {
  return sums.difference > 0 ? 10 * std::log10(sums.magnitude / sums.difference) : 0;
}

std::map<std::string, GroupError> ErrorLog::groups() const {
  std::map<std::string, GroupError> out;
  for (const auto& [stem, error] : errors_) {
    for (const std::string& name : {error_group(stem), std::string("all")}) {
      GroupError& group = out[name];
      ++group.matrices;
      group.sums.difference += error.difference;
      group.sums.magnitude += error.magnitude;
      if (const double relative = relative_error(error); relative >= group.largest) {
        group.largest = relative;
        group.largest_name = stem;
      }
    }
  }
  return out;
}

std::string error_group(const std::string& stem) {
  std::istringstream parts(stem.substr(std::min(stem.size(), stem.find("layers.") + 7)));
  if (stem.find("layers.") == std::string::npos) return stem;
  std::string out;
  std::string part;
  while (std::getline(parts, part, '.')) {
    if (!is_number(part)) out += (out.empty() ? "" : ".") + part;
  }
  return out;
}

}  // namespace nibble::quantize
