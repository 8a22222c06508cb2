#include "quantize/error_log.h"

#include "base/file.h"

#include <fmt/format.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
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

ErrorLog ErrorLog::open(const std::string& path, bool continues) {
  ErrorLog log;
  log.path_ = path;
  if (path.empty()) return log;
  if (!continues) {
    std::remove(path.c_str());
    return log;
  }
  const auto text = read_file(path);
  std::istringstream lines(text.ok() ? text.value() : "");
  std::string line;
  while (std::getline(lines, line) &&
         !lines.eof()) {  // a last line without its end is half written
    std::istringstream words(line);
    std::string stem;
    device::WeightError error;
    if (words >> stem >> error.difference >> error.magnitude) log.errors_[stem] = error;
  }
  return log;
}

const device::WeightError* ErrorLog::find(const std::string& stem) const {
  const auto it = errors_.find(stem);
  return it == errors_.end() ? nullptr : &it->second;
}

Result<void> ErrorLog::add(const std::string& stem, const device::WeightError& error) {
  errors_[stem] = error;
  if (path_.empty()) return {};
  std::FILE* file = std::fopen(path_.c_str(), "a");
  if (file == nullptr) return errno_error(path_, errno);
  fmt::print(file, "{} {:.17g} {:.17g}\n", stem, error.difference, error.magnitude);
  if (std::fclose(file) != 0) return errno_error(path_, errno);
  return {};
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
