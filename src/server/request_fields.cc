#include "server/request_fields.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>

namespace nibble::server {
namespace {

// Beyond this a double no longer holds every integer, so 1e300 is no integer field.
constexpr double kMaxExactInteger = 9007199254740992.0;

const char* type_name(FieldType type) {
  switch (type) {
    case FieldType::boolean:
      return "true or false";
    case FieldType::integer:
      return "an integer";
    case FieldType::number:
      return "a number";
    case FieldType::string:
      return "a string";
    case FieldType::array:
      return "an array";
    case FieldType::object:
      return "an object";
    case FieldType::any:
      return "any value";
  }
  return "?";
}

bool is_integer(const OrderedJson& value) {
  if (value.is_number_unsigned()) {
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }
  if (value.is_number_integer()) return true;
  if (!value.is_number_float()) return false;
  const double d = value.get<double>();
  return std::trunc(d) == d && std::fabs(d) <= kMaxExactInteger;
}

bool has_type(const OrderedJson& value, FieldType type) {
  switch (type) {
    case FieldType::boolean:
      return value.is_boolean();
    case FieldType::integer:
      return is_integer(value);
    case FieldType::number:
      return value.is_number() && std::isfinite(value.get<double>());
    case FieldType::string:
      return value.is_string();
    case FieldType::array:
      return value.is_array();
    case FieldType::object:
      return value.is_object();
    case FieldType::any:
      return true;
  }
  return false;
}

std::string range_text(const FieldRange& range, const char* unit) {
  std::string text;
  if (std::isfinite(range.low)) {
    text = fmt::format("{} {}", range.low_excluded ? "more than" : "at least", range.low);
  }
  if (std::isfinite(range.high)) {
    text += fmt::format("{}at most {}", text.empty() ? "" : " and ", range.high);
  }
  return text + unit;
}

bool in_range(double x, const FieldRange& range) {
  return (range.low_excluded ? x > range.low : x >= range.low) && x <= range.high;
}

bool check_range(const OrderedJson& value, const FieldSpec& spec, FieldErrors& errors) {
  const FieldRange& range = spec.range;
  if (spec.type == FieldType::integer || spec.type == FieldType::number) {
    if (in_range(value.get<double>(), range)) return true;
    errors.add(spec.name,
               fmt::format("found {}, expected {}", echo(dump_json(value)), range_text(range, "")));
    return false;
  }
  if (spec.type != FieldType::string && spec.type != FieldType::array) return true;
  const bool is_string = spec.type == FieldType::string;
  const size_t length = is_string ? value.get_ref<const std::string&>().size() : value.size();
  if (in_range(static_cast<double>(length), range)) return true;
  errors.add(spec.name, fmt::format("has {} {}, expected {}", length,
                                    is_string ? "bytes" : "elements", range_text(range, "")));
  return false;
}

}  // namespace

const OrderedJson* checked_member(const OrderedJson& object, const FieldSpec& spec,
                                  FieldErrors& errors) {
  const auto it = object.find(spec.name);
  if (it == object.end() || it->is_null()) return nullptr;
  if (!has_type(*it, spec.type)) {
    errors.add(spec.name, fmt::format("found {} ({}), expected {}", echo(dump_json(*it)),
                                      it->type_name(), type_name(spec.type)));
    return nullptr;
  }
  return check_range(*it, spec, errors) ? &*it : nullptr;
}

int64_t int_value(const OrderedJson& value) {
  if (value.is_number_float()) return static_cast<int64_t>(value.get<double>());
  return value.get<int64_t>();
}

std::string string_value(const OrderedJson& value) {
  return value.get<std::string>();
}

std::vector<int32_t> token_list(const OrderedJson& value, const FieldSink& sink) {
  std::vector<int32_t> tokens;
  for (size_t i = 0; i < value.size(); ++i) {
    const int64_t token = is_integer(value[i]) ? int_value(value[i]) : -1;
    if (token < 0 || token > std::numeric_limits<int32_t>::max()) {
      sink.errors.add(fmt::format("{}.{}", sink.name, i),
                      fmt::format("found {}, expected a token id", echo(dump_json(value[i]))));
      return {};
    }
    tokens.push_back(static_cast<int32_t>(token));
  }
  return tokens;
}

std::vector<std::string> string_list(const OrderedJson& value, const FieldSink& sink) {
  std::vector<std::string> strings;
  for (size_t i = 0; i < value.size(); ++i) {
    if (!value[i].is_string()) {
      sink.errors.add(fmt::format("{}.{}", sink.name, i),
                      fmt::format("found {} ({}), expected a string", echo(dump_json(value[i])),
                                  value[i].type_name()));
      return {};
    }
    strings.push_back(string_value(value[i]));
  }
  return strings;
}

void refuse_if_set(const OrderedJson& value, const FieldSink& sink) {
  const bool is_neutral = (value.is_boolean() && !value.get<bool>()) ||
                          (value.is_string() && value.get_ref<const std::string&>().empty()) ||
                          (value.is_structured() && value.empty());
  if (is_neutral) return;
  sink.error(
      fmt::format("found {}: this field is not supported by this server", echo(dump_json(value))));
}

}  // namespace nibble::server
