// Text of values: Python's str() and repr(), and JSON as transformers' tojson writes it.
#pragma once

#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <string>
#include <string_view>

namespace nibble::tokenizer::jinja {

/// str(value); an undefined value is empty.
std::string to_text(Runtime& runtime, const Value& value);
/// repr(value), appended. Output beyond the render's limits fails.
void append_repr(Runtime& runtime, const Value& value, std::string& out);
/// A quoted string, with the quote Python would choose; all_ascii as in ascii().
void append_text_repr(std::string_view text, std::string& out, bool all_ascii = false);

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool has_indent = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};

/// json.dumps; fails with TypeError for values JSON does not have.
std::string to_json(Runtime& runtime, const Value& value, const JsonStyle& style);

}  // namespace nibble::tokenizer::jinja
