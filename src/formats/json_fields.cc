#include "formats/json_fields.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace nibble::formats {
namespace {

const Json& null_json() {
  static const Json null;
  return null;
}

std::string shown(const Json& value) {
  constexpr size_t kShown = 80;
  const std::string text = dump_json(value);
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

}  // namespace

const Json* JsonFields::member(const std::string& key) const {
  if (!object_.is_object()) return nullptr;
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonFields::fault(const std::string& key, const std::string& text) const {
  problems_.add(fmt::format("{}{}: {}", prefix_, key, text));
}

void JsonFields::expected(const std::string& key, const std::string& wanted) const {
  const Json* value = member(key);
  fault(key, value == nullptr ? fmt::format("missing, expected {}", wanted)
                              : fmt::format("found {}, expected {}", shown(*value), wanted));
}

std::optional<int64_t> JsonFields::read_integer(const std::string& key, const Json& value,
                                                int64_t min, int64_t max) const {
  const bool too_big =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (value.is_number_integer() && !too_big) {
    const auto number = value.get<int64_t>();
    if (number >= min && number <= max) return number;
  }
  fault(key, fmt::format("found {}, expected an integer from {} to {}", shown(value), min, max));
  return std::nullopt;
}

std::optional<int64_t> JsonFields::optional_integer(const std::string& key, int64_t min,
                                                    int64_t max) const {
  const Json* value = member(key);
  return value == nullptr ? std::nullopt : read_integer(key, *value, min, max);
}

int64_t JsonFields::integer(const std::string& key, int64_t min, int64_t max,
                            std::optional<int64_t> fallback) const {
  if (!has(key) && !fallback) expected(key, fmt::format("an integer from {} to {}", min, max));
  return optional_integer(key, min, max).value_or(fallback.value_or(0));
}

std::optional<double> JsonFields::optional_number(const std::string& key, double min,
                                                  double max) const {
  const Json* value = member(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_number()) {
    const auto number = value->get<double>();
    if (number >= min && number <= max) return number;
  }
  expected(key, fmt::format("a number from {} to {}", min, max));
  return std::nullopt;
}

double JsonFields::number(const std::string& key, double min, double max,
                          std::optional<double> fallback) const {
  if (!has(key) && !fallback) expected(key, fmt::format("a number from {} to {}", min, max));
  return optional_number(key, min, max).value_or(fallback.value_or(0.0));
}

std::optional<bool> JsonFields::optional_boolean(const std::string& key) const {
  const Json* value = member(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_boolean()) return value->get<bool>();
  expected(key, "true or false");
  return std::nullopt;
}

bool JsonFields::boolean(const std::string& key, bool fallback) const {
  return optional_boolean(key).value_or(fallback);
}

std::string JsonFields::text(const std::string& key, const std::string& fallback) const {
  const Json* value = member(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  expected(key, "a string");
  return fallback;
}

std::vector<std::string> JsonFields::texts(const std::string& key) const {
  std::vector<std::string> out;
  const Json* value = member(key);
  if (value == nullptr) return out;
  if (!value->is_array()) {
    expected(key, "a list of strings");
    return out;
  }
  for (const Json& item : *value) {
    if (!item.is_string()) {
      fault(key, fmt::format("found {} in the list, expected strings", shown(item)));
      return {};
    }
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::vector<int64_t> JsonFields::integers(const std::string& key, int64_t min, int64_t max) const {
  std::vector<int64_t> out;
  const Json* value = member(key);
  if (value == nullptr) return out;
  if (!value->is_array()) {
    if (const auto one = read_integer(key, *value, min, max)) out.push_back(*one);
    return out;
  }
  for (const Json& item : *value) {
    const auto one = read_integer(key, item, min, max);
    if (!one) return {};
    out.push_back(*one);
  }
  return out;
}

const Json& JsonFields::object(const std::string& key) const {
  const Json* value = member(key);
  if (value == nullptr) return null_json();
  if (value->is_object()) return *value;
  expected(key, "an object");
  return null_json();
}

}  // namespace nibble::formats
