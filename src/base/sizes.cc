#include "base/sizes.h"

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <cstdlib>

namespace nibble {
namespace {

constexpr double kLargest = 9.0e18;

Error bad_number(const std::string& text, const char* wanted) {
  return Error{ErrorCode::invalid_argument, fmt::format("'{}' is not {}", text, wanted)};
}

// Splits "1.5gib" into 1.5 and "gib" (lower case); a negative or absent number gives NaN.
double split_number(const std::string& text, std::string& unit) {
  const char* begin = text.c_str();
  char* end = nullptr;
  const double value = std::strtod(begin, &end);
  if (end == begin || value < 0 || !std::isfinite(value)) return NAN;
  unit.clear();
  for (; *end != '\0'; ++end) {
    if (*end != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*end)));
  }
  return value;
}

// 0 for "", 1 for k, 2 for m, ...; -1 for anything else.
int unit_power(char letter) {
  switch (letter) {
    case 'k':
      return 1;
    case 'm':
      return 2;
    case 'g':
      return 3;
    case 't':
      return 4;
    default:
      return -1;
  }
}

}  // namespace

Result<int64_t> parse_bytes(const std::string& text) {
  constexpr const char* kWanted = "a size such as 40GiB, 512MiB or a number of bytes";
  std::string unit;
  const double value = split_number(text, unit);
  if (std::isnan(value)) return bad_number(text, kWanted);
  double scale = 1;
  if (!unit.empty() && unit != "b") {
    const int power = unit_power(unit[0]);
    const std::string rest = unit.substr(1);
    if (power < 0 || (!rest.empty() && rest != "b" && rest != "ib"))
      return bad_number(text, kWanted);
    scale = std::pow(rest == "b" ? 1000.0 : 1024.0, power);
  }
  if (value * scale > kLargest) return bad_number(text, kWanted);
  return static_cast<int64_t>(value * scale);
}

Result<int64_t> parse_count(const std::string& text) {
  constexpr const char* kWanted = "a count such as 4096 or 32k";
  std::string unit;
  const double value = split_number(text, unit);
  if (std::isnan(value) || unit.size() > 1) return bad_number(text, kWanted);
  const int power = unit.empty() ? 0 : unit_power(unit[0]);
  const double count = power < 0 ? kLargest * 2 : value * std::pow(1024.0, power);
  if (count > kLargest || count != std::floor(count)) return bad_number(text, kWanted);
  return static_cast<int64_t>(count);
}

std::string format_bytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.2f} {}", value, kUnits[unit]);
}

}  // namespace nibble
