// JsonFields: reads the members of one JSON object with bounds, noting every fault in a list.
//
// A faulty or missing member yields a harmless value and a line such as
// "text_config.hidden_size: found \"x\", expected an integer from 1 to 65536", so that one pass
// over a configuration finds all that is wrong. null counts as absent.
#pragma once

#include "base/json.h"
#include "base/problems.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nibble::formats {

class JsonFields {
 public:
  /// `object` may be any JSON value; what is no object has no members. `prefix` stands before field
  /// names ("text_config."). Keeps references to both.
  JsonFields(const Json& object, std::string prefix, Problems& problems)
      : object_(object), prefix_(std::move(prefix)), problems_(problems) {}

  bool has(const std::string& key) const { return member(key) != nullptr; }

  /// Missing without a fallback is a fault. Faults give 0 (the fallback where there is one).
  int64_t integer(const std::string& key, int64_t min, int64_t max,
                  std::optional<int64_t> fallback = std::nullopt) const;
  std::optional<int64_t> optional_integer(const std::string& key, int64_t min, int64_t max) const;
  /// From min to max, both included.
  double number(const std::string& key, double min, double max,
                std::optional<double> fallback = std::nullopt) const;
  std::optional<double> optional_number(const std::string& key, double min, double max) const;
  bool boolean(const std::string& key, bool fallback) const;
  std::optional<bool> optional_boolean(const std::string& key) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  std::vector<std::string> texts(const std::string& key) const;
  /// An integer or a list of integers.
  std::vector<int64_t> integers(const std::string& key, int64_t min, int64_t max) const;
  /// The member itself when it is an object, else null (a fault when it is something else).
  const Json& object(const std::string& key) const;
  /// The fields of that object, with "key." added to the prefix.
  JsonFields nested(const std::string& key) const {
    return JsonFields(object(key), prefix_ + key + ".", problems_);
  }

  /// Notes a fault of `key`: "prefix.key: text".
  void fault(const std::string& key, const std::string& text) const;
  /// Notes "found <value>, expected <wanted>".
  void expected(const std::string& key, const std::string& wanted) const;

 private:
  const Json* member(const std::string& key) const;
  std::optional<int64_t> read_integer(const std::string& key, const Json& value, int64_t min,
                                      int64_t max) const;

  const Json& object_;
  std::string prefix_;
  Problems& problems_;
};

}  // namespace nibble::formats
