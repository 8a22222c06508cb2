#include "base/json.h"

#include "base/file.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cmath>
#include <set>
#include <vector>

namespace nibble {
namespace {

constexpr size_t kMaxOrderedKeys = 4096;

// Refuses what the parser itself accepts: deep nesting, repeated keys and (ordered form) huge
// objects.
class Guard {
 public:
  Guard(size_t max_keys, DuplicateKeys duplicates) : max_keys_(max_keys), duplicates_(duplicates) {}

  template <typename AnyJson>
  bool operator()(int depth, nlohmann::detail::parse_event_t event, const AnyJson& value) {
    using Event = nlohmann::detail::parse_event_t;
    if (!problem_.empty()) return false;
    if (depth > kMaxJsonDepth)
      problem_ = fmt::format("nested deeper than {} levels", kMaxJsonDepth);
    if (event == Event::object_start) keys_.emplace_back();
    if (event == Event::object_end && !keys_.empty()) keys_.pop_back();
    if (event == Event::key && !keys_.empty()) {
      const auto key = value.template get<std::string>();
      const bool is_new = keys_.back().insert(key).second;
      if (!is_new && duplicates_ == DuplicateKeys::refuse) {
        problem_ = fmt::format("key \"{}\" appears twice", key);
      }
      if (keys_.back().size() > max_keys_) {
        problem_ = fmt::format("an object has more than {} keys", max_keys_);
      }
    }
    return problem_.empty();
  }
  const std::string& problem() const { return problem_; }

 private:
  size_t max_keys_;
  DuplicateKeys duplicates_;
  std::vector<std::set<std::string>> keys_;
  std::string problem_;
};

template <typename AnyJson>
Result<AnyJson> parse(std::string_view text, const std::string& what, size_t max_keys,
                      DuplicateKeys duplicates) {
  // The parser recurses no deeper than its own explicit stack, so a depth check by callback
  // suffices.
  Guard guard(max_keys, duplicates);
  try {
    const auto callback = [&guard](int depth, nlohmann::detail::parse_event_t event,
                                   AnyJson& value) { return guard(depth, event, value); };
    AnyJson json = AnyJson::parse(text.begin(), text.end(), callback);
    if (!guard.problem().empty()) return Error{ErrorCode::corrupt, what + ": " + guard.problem()};
    return json;
  } catch (const nlohmann::json::exception& e) {
    return Error{ErrorCode::corrupt, fmt::format("{}: not valid JSON: {}", what, e.what())};
  }
}

Error type_error(const std::string& what, const std::string& key, const Json& found,
                 const char* wanted) {
  return Error{ErrorCode::invalid_argument,
               fmt::format("{}: {}: found {} ({}), expected {}", what, key,
                           dump_json(found).substr(0, 80), found.type_name(), wanted)};
}

const Json* member(const Json& object, const std::string& key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

Result<Json> parse_json(std::string_view text, const std::string& what) {
  return parse<Json>(text, what, SIZE_MAX, DuplicateKeys::refuse);
}

Result<OrderedJson> parse_ordered_json(std::string_view text, const std::string& what,
                                       DuplicateKeys duplicates) {
  return parse<OrderedJson>(text, what, kMaxOrderedKeys, duplicates);
}

Result<Json> read_json_file(const std::string& path) {
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  return parse_json(text, path);
}

std::string dump_json(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

std::string dump_json(const OrderedJson& json, int indent) {
  return json.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

Result<int64_t> json_int(const Json& object, const std::string& key, const std::string& what) {
  const Json* found = member(object, key);
  if (found == nullptr) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: {}: missing, expected an integer", what, key)};
  }
  return json_int_or(object, key, 0, what);
}

Result<int64_t> json_int_or(const Json& object, const std::string& key, int64_t fallback,
                            const std::string& what) {
  const Json* found = member(object, key);
  if (found == nullptr) return fallback;
  if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return type_error(what, key, *found, "an integer below 2^63");
  }
  if (found->is_number_integer()) return found->get<int64_t>();
  return type_error(what, key, *found, "an integer");
}

Result<std::string> json_string(const Json& object, const std::string& key,
                                const std::string& what) {
  const Json* found = member(object, key);
  if (found == nullptr) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: {}: missing, expected a string", what, key)};
  }
  return json_string_or(object, key, "", what);
}

Result<std::string> json_string_or(const Json& object, const std::string& key,
                                   const std::string& fallback, const std::string& what) {
  const Json* found = member(object, key);
  if (found == nullptr) return fallback;
  if (found->is_string()) return found->get<std::string>();
  return type_error(what, key, *found, "a string");
}

}  // namespace nibble
