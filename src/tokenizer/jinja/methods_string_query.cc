// Methods of str that search or classify.
#include "tokenizer/jinja/methods_string.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

// The part of a string that start and end arguments choose, in code points.
struct Window {
  std::string_view text;
  int64_t first = 0;  // index of the window's first code point
  bool is_empty_range = false;  // start lies behind end: even an empty needle is not found
};

int64_t window_bound(Runtime& runtime, const Value& bound, int64_t fallback, int64_t size) {
  if (bound.is_missing() || bound.is_none()) return fallback;
  const int64_t value = integer_argument(runtime, bound);
  return value < 0 ? std::max<int64_t>(value + size, 0) : value;
}

Window choose_window(Runtime& runtime, const std::string& text, const Value& start,
                     const Value& end) {
  const auto size = static_cast<int64_t>(text_length(text));
  const int64_t first = window_bound(runtime, start, 0, size);
  const int64_t last = std::min(window_bound(runtime, end, size, size), size);
  runtime.step(text.size() / 256);
  Window window;
  window.first = first;
  window.is_empty_range = first > last;
  if (window.is_empty_range || runtime.failed()) return window;
  const size_t from = byte_offset(text, static_cast<size_t>(first));
  const size_t to = byte_offset(text, static_cast<size_t>(last));
  window.text = std::string_view(text).substr(from, to - from);
  return window;
}

constexpr std::string_view kSearchNames[] = {"sub", "start", "end"};

// Code point index, or -1.
int64_t search(Runtime& runtime, const Value& self, const CallArguments& arguments,
               bool from_right) {
  const auto bound = bind_arguments(runtime, "find", arguments, kSearchNames, 1);
  const std::string needle = text_argument(runtime, bound[0]);
  if (runtime.failed()) return -1;
  const Window window = choose_window(runtime, self.as_string(), bound[1], bound[2]);
  if (window.is_empty_range) return -1;
  const size_t found = from_right ? window.text.rfind(needle) : window.text.find(needle);
  if (found == std::string_view::npos) return -1;
  return window.first + static_cast<int64_t>(text_length(window.text.substr(0, found)));
}

Value index_or_fail(Runtime& runtime, int64_t found) {
  if (found >= 0 || runtime.failed()) return Value::integer(found);
  return runtime.fail(ErrorKind::value_error, "substring not found");
}

bool has_affix(std::string_view text, std::string_view part, bool at_end) {
  if (part.size() > text.size()) return false;
  return at_end ? text.substr(text.size() - part.size()) == part
                : text.substr(0, part.size()) == part;
}

Value affix_test(Runtime& runtime, const Value& self, const CallArguments& arguments, bool at_end) {
  const auto bound = bind_arguments(runtime, "startswith", arguments, kSearchNames, 1);
  if (runtime.failed()) return Value();
  const Window window = choose_window(runtime, self.as_string(), bound[1], bound[2]);
  const bool is_tuple = bound[0].is(ValueKind::tuple);
  if (!is_tuple && !bound[0].is_string()) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("{} first arg must be str or a tuple of str, not {}",
                                    at_end ? "endswith" : "startswith", type_name(bound[0])));
  }
  const std::vector<Value> parts =
      is_tuple ? bound[0].as_sequence().items : std::vector<Value>{bound[0]};
  bool found = false;
  for (const Value& part : parts) {
    const std::string affix = text_argument(runtime, part);
    found = found || (!window.is_empty_range && has_affix(window.text, affix, at_end));
  }
  return Value::boolean(found);
}

// Not empty, and every code point holds.
template <typename Predicate>
Value all_of_text(Runtime& runtime, const Value& self, const CallArguments& arguments,
                  Predicate holds, bool empty_result = false) {
  if (!expect_no_arguments(runtime, "str", arguments)) return Value();
  const std::u32string text = decode_text(self.as_string());
  runtime.step(text.size() / 16);
  return Value::boolean(text.empty() ? empty_result : std::all_of(text.begin(), text.end(), holds));
}

Value case_test(Runtime& runtime, const Value& self, const CallArguments& arguments,
                bool (*wanted)(char32_t), bool (*unwanted)(char32_t)) {
  if (!expect_no_arguments(runtime, "str", arguments)) return Value();
  bool found = false;
  for (const char32_t c : decode_text(self.as_string())) {
    if (unwanted(c) || is_title(c)) return Value::boolean(false);
    found = found || wanted(c);
  }
  return Value::boolean(found);
}

}  // namespace

Value string_count(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "count", arguments, kSearchNames, 1);
  const std::string needle = text_argument(runtime, bound[0]);
  if (runtime.failed()) return Value();
  const Window window = choose_window(runtime, self.as_string(), bound[1], bound[2]);
  if (window.is_empty_range) return Value::integer(0);
  return Value::integer(static_cast<int64_t>(count_occurrences(window.text, needle)));
}

Value string_find(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return Value::integer(search(runtime, self, arguments, false));
}

Value string_rfind(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return Value::integer(search(runtime, self, arguments, true));
}

Value string_index(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return index_or_fail(runtime, search(runtime, self, arguments, false));
}

Value string_rindex(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return index_or_fail(runtime, search(runtime, self, arguments, true));
}

Value string_startswith(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return affix_test(runtime, self, arguments, false);
}

Value string_endswith(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return affix_test(runtime, self, arguments, true);
}

Value string_isalnum(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments,
                     [](char32_t c) { return is_alpha(c) || is_numeric(c); });
}

Value string_isalpha(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments, is_alpha);
}

Value string_isascii(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(
      runtime, self, arguments, [](char32_t c) { return c < 0x80; }, true);
}

Value string_isdecimal(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments, is_decimal);
}

Value string_isdigit(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments, is_digit);
}

Value string_isidentifier(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const std::u32string text = decode_text(self.as_string());
  if (!text.empty() && !is_identifier_start(text[0])) return Value::boolean(false);
  return all_of_text(runtime, self, arguments, is_identifier_part);
}

Value string_islower(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return case_test(runtime, self, arguments, is_lower, is_upper);
}

Value string_isnumeric(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments, is_numeric);
}

Value string_isprintable(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments, is_printable, true);
}

Value string_isspace(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return all_of_text(runtime, self, arguments, is_space);
}

Value string_istitle(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "str", arguments)) return Value();
  bool found = false;
  bool inside_word = false;
  for (const char32_t c : decode_text(self.as_string())) {
    const bool starts = is_upper(c) || is_title(c);
    const bool goes_on = is_lower(c);
    if ((starts && inside_word) || (goes_on && !inside_word)) return Value::boolean(false);
    inside_word = starts || goes_on;
    found = found || inside_word;
  }
  return Value::boolean(found);
}

Value string_isupper(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return case_test(runtime, self, arguments, is_upper, is_lower);
}

Value string_unsupported(Runtime& runtime, const Value&, const CallArguments&) {
  return runtime.fail(ErrorKind::unsupported_error,
                      "the str methods encode, maketrans and translate are not supported");
}

}  // namespace nibble::tokenizer::jinja
