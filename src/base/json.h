// JSON: the one adapter around nlohmann-json. Exceptions stop here; depth and duplicate keys are
// checked.
//
// Json keeps keys sorted (configurations, indexes); OrderedJson keeps them as written (chat
// messages, tool schemas). OrderedJson objects search linearly, so parse_ordered_json bounds the
// keys of one object.
#pragma once

#include "base/result.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {

using Json = nlohmann::json;
using OrderedJson = nlohmann::ordered_json;

inline constexpr int kMaxJsonDepth = 128;

/// What a repeated key of one object means: an error (files), or the last value (HTTP clients).
enum class DuplicateKeys { refuse, last_wins };

/// Parses one document. `what` names the source in errors ("config.json").
Result<Json> parse_json(std::string_view text, const std::string& what);
Result<OrderedJson> parse_ordered_json(std::string_view text, const std::string& what,
                                       DuplicateKeys duplicates = DuplicateKeys::refuse);

/// Reads and parses a file.
Result<Json> read_json_file(const std::string& path);

/// Compact or indented text; invalid UTF-8 is replaced, never thrown on. indent < 0 means one line.
std::string dump_json(const Json& json, int indent = -1);
std::string dump_json(const OrderedJson& json, int indent = -1);

/// Typed members with errors that name the path: "config.json: hidden_size: missing".
/// `fallback` variants accept absence and null, never a wrong type.
Result<int64_t> json_int(const Json& object, const std::string& key, const std::string& what);
Result<int64_t> json_int_or(const Json& object, const std::string& key, int64_t fallback,
                            const std::string& what);
Result<std::string> json_string(const Json& object, const std::string& key,
                                const std::string& what);
Result<std::string> json_string_or(const Json& object, const std::string& key,
                                   const std::string& fallback, const std::string& what);

}  // namespace nibble
