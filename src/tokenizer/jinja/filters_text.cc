// Filters that make text.
#include "base/html.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/html.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

// str(value), keeping Markup.
Value soft_string(Runtime& runtime, const Value& value) {
  return value.is_string() ? value : runtime.string(to_text(runtime, value));
}

// A method of str applied to soft_string(input).
Value apply(Runtime& runtime, const Value& input, std::string (*function)(std::string_view)) {
  const std::string text = to_text(runtime, input);
  if (!runtime.step(text.size() / 16)) return Value();
  return runtime.string(function(text), input.is_markup());
}

Value filter_upper(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "upper", arguments)) return Value();
  return apply(runtime, input, to_upper);
}

Value filter_lower(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "lower", arguments)) return Value();
  return apply(runtime, input, to_lower);
}

Value filter_capitalize(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "capitalize", arguments)) return Value();
  return apply(runtime, input, capitalize);
}

// Unlike str.title: words start after blanks and - ( { [ < only.
std::string title_words(std::string_view text) {
  std::string out;
  std::u32string word;
  const auto flush = [&] {
    if (word.empty()) return;
    out += to_upper(encode_text(word[0]));
    out += to_lower(encode_text(std::u32string_view(word).substr(1)));
    word.clear();
  };
  for (const char32_t c : decode_text(text)) {
    const bool separates = is_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    if (separates) {
      flush();
      out += encode_text(c);
    } else {
      word.push_back(c);
    }
  }
  flush();
  return out;
}

Value filter_title(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "title", arguments)) return Value();
  const std::string text = to_text(runtime, input);
  return runtime.string(title_words(text));
}

Value filter_trim(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "trim", arguments, {"chars"});
  std::optional<std::string_view> characters;
  const bool has_characters = !bound[0].is_missing() && !bound[0].is_none();
  const std::string set = has_characters ? text_argument(runtime, bound[0]) : "";
  if (has_characters) characters = set;
  const std::string text = to_text(runtime, input);
  if (!runtime.step(text.size() / 256)) return Value();
  return runtime.string(std::string(strip(text, Side::both, characters)), input.is_markup());
}

Value filter_string(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "string", arguments)) return Value();
  return soft_string(runtime, input);
}

Value filter_safe(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "safe", arguments)) return Value();
  return runtime.string(to_text(runtime, input), true);
}

Value filter_escape(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "escape", arguments)) return Value();
  if (input.is_markup()) return input;
  return runtime.string(escape_html(to_text(runtime, input)), true);
}

Value filter_forceescape(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "forceescape", arguments)) return Value();
  return runtime.string(escape_html(to_text(runtime, input)), true);
}

Value filter_replace(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "replace", arguments, {"old", "new", "count"}, 2);
  if (runtime.failed()) return Value();
  const int64_t count =
      bound[2].is_missing() || bound[2].is_none() ? -1 : integer_argument(runtime, bound[2]);
  return replace_text(runtime, to_text(runtime, input), to_text(runtime, bound[0]),
                      to_text(runtime, bound[1]), count, false);
}

Value filter_center(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "center", arguments, {"width"});
  const int64_t width = integer_argument(runtime, bound[0], 80);
  const std::string text = to_text(runtime, input);
  return center_text(runtime, text, width, " ", input.is_markup());
}

Value filter_indent(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "indent", arguments, {"width", "first", "blank"});
  std::string indention = "    ";
  if (bound[0].is_string()) {
    indention = bound[0].as_string();
  } else if (!bound[0].is_missing()) {
    const int64_t width = std::clamp<int64_t>(integer_argument(runtime, bound[0]), 0, 100000);
    indention = std::string(static_cast<size_t>(width), ' ');
  }
  const bool first = flag_argument(runtime, bound[1], false);
  const bool blank = flag_argument(runtime, bound[2], false);
  if (!input.is_string()) {
    if (input.is_undefined()) return runtime.fail_undefined(input);
    return binary(runtime, BinaryOperator::add, input, runtime.string("\n"));
  }
  const std::string text = input.as_string() + "\n";
  const auto lines = split_lines(text, false);
  if (!runtime.charge(text.size() + lines.size() * indention.size())) return Value();
  std::string out = first ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += "\n";
    if (i > 0 && (blank || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return runtime.string(std::move(out), input.is_markup());
}

Value filter_truncate(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound =
      bind_arguments(runtime, "truncate", arguments, {"length", "killwords", "end", "leeway"});
  const int64_t length = integer_argument(runtime, bound[0], 255);
  const std::string end = bound[2].is_missing() ? "..." : text_argument(runtime, bound[2]);
  const int64_t leeway = bound[3].is_none() ? 5 : integer_argument(runtime, bound[3], 5);
  if (runtime.failed()) return Value();
  const auto end_length = static_cast<int64_t>(text_length(end));
  if (length < end_length || leeway < 0) {
    return runtime.fail(ErrorKind::value_error,
                        fmt::format("expected length >= {}, got {}", end_length, length));
  }
  const auto size = length_of(runtime, input);
  if (!size.has_value()) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("object of type '{}' has no len()", type_name(input)));
  }
  if (*size <= length + leeway) return input;
  const std::string text = text_argument(runtime, input);
  std::string kept = text.substr(0, byte_offset(text, static_cast<size_t>(length - end_length)));
  if (!flag_argument(runtime, bound[1], false)) {
    const size_t blank = kept.rfind(' ');
    if (blank != std::string::npos) kept.resize(blank);
  }
  return runtime.string(kept + (input.is_markup() ? escape_html(end) : end), input.is_markup());
}

Value filter_wordcount(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "wordcount", arguments)) return Value();
  int64_t count = 0;
  bool inside = false;
  for (const char32_t c : decode_text(to_text(runtime, input))) {
    const bool is_word = c == '_' || is_alpha(c) || is_numeric(c);
    if (is_word && !inside) ++count;
    inside = is_word;
  }
  return Value::integer(count);
}

Value filter_striptags(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "striptags", arguments)) return Value();
  const std::string text = to_text(runtime, input);
  if (!runtime.step(text.size() / 16)) return Value();
  return runtime.string(strip_tags(text));
}

std::string quote_url(std::string_view text, bool for_query) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool is_plain = is_letter || (c >= '0' && c <= '9') || c == '-' || c == '_' || c == '.' ||
                          c == '~' || (c == '/' && !for_query);
    if (is_plain) {
      out += c;
    } else if (c == ' ' && for_query) {
      out += '+';
    } else {
      out += fmt::format("%{:02X}", byte);
    }
  }
  return out;
}

Value filter_urlencode(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "urlencode", arguments)) return Value();
  if (input.is_string() || !is_iterable(input)) {
    return runtime.string(quote_url(to_text(runtime, input), false));
  }
  std::string out;
  const auto append = [&](const Value& key, const Value& value) {
    if (!out.empty()) out += "&";
    out += quote_url(to_text(runtime, key), true) + "=" + quote_url(to_text(runtime, value), true);
  };
  if (input.is_dict()) {
    for (const auto& entry : input.as_dict().entries()) append(entry.key, entry.value);
  } else {
    for (const Value& item : collect(runtime, input)) {
      const auto pair = collect(runtime, item);
      if (runtime.failed()) return Value();
      if (pair.size() != 2) {
        return runtime.fail(ErrorKind::value_error, "not enough values to unpack (expected 2)");
      }
      append(pair[0], pair[1]);
    }
  }
  return runtime.string(std::move(out));
}

Value filter_format(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!arguments.positional.empty() && !arguments.keywords.empty()) {
    return runtime.fail(ErrorKind::filter_argument_error,
                        "can't handle positional and keyword arguments at the same time");
  }
  const Value text = soft_string(runtime, input);
  if (runtime.failed()) return Value();
  if (arguments.keywords.empty()) {
    return percent_format(runtime, text, runtime.tuple(arguments.positional));
  }
  DictData values;
  for (const auto& [name, value] : arguments.keywords) values.set(runtime.string(name), value);
  return runtime.failed() ? Value()
                          : percent_format(runtime, text, runtime.dict(std::move(values)));
}

Value filter_join(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "join", arguments, {"d", "attribute"});
  const std::string joint = bound[0].is_missing() ? "" : to_text(runtime, bound[0]);
  const bool has_attribute = !bound[1].is_missing() && !bound[1].is_none();
  std::string out;
  bool is_first = true;
  for (const Value& item : collect(runtime, input)) {
    const Value value = has_attribute ? attribute_path(runtime, item, bound[1]) : item;
    const std::string text = to_text(runtime, value);
    if (!runtime.charge(text.size() + joint.size())) return Value();
    if (!is_first) out += joint;
    is_first = false;
    out += text;
  }
  return runtime.string(std::move(out));
}

Value filter_tojson(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "tojson", arguments,
                                    {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = flag_argument(runtime, bound[0], false);
  style.sort_keys = flag_argument(runtime, bound[3], false);
  if (!bound[1].is_missing() && !bound[1].is_none()) {
    style.has_indent = true;
    style.item_separator = ",";
    if (bound[1].is_string()) {
      style.indent = bound[1].as_string();
    } else {
      const int64_t width = std::clamp<int64_t>(integer_argument(runtime, bound[1]), 0, 1000);
      style.indent = std::string(static_cast<size_t>(width), ' ');
    }
  }
  if (!bound[2].is_missing() && !bound[2].is_none()) {
    const auto separators = collect(runtime, bound[2]);
    if (separators.size() != 2 && !runtime.failed()) {
      runtime.fail(ErrorKind::value_error, "separators: two texts wanted");
    }
    if (runtime.failed()) return Value();
    style.item_separator = text_argument(runtime, separators[0]);
    style.key_separator = text_argument(runtime, separators[1]);
  }
  std::string json = runtime.failed() ? "" : to_json(runtime, input, style);
  return runtime.failed() ? Value() : runtime.string(std::move(json));
}

Value filter_xmlattr(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "xmlattr", arguments, {"autospace"});
  if (!input.is_dict()) {
    if (input.is_undefined()) return runtime.fail_undefined(input);
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("'{}' object has no attribute 'items'", type_name(input)));
  }
  const auto escaped = [&](const Value& value) {
    return value.is_markup() ? value.as_string() : escape_html(to_text(runtime, value));
  };
  std::string out;
  for (const auto& entry : input.as_dict().entries()) {
    if (entry.value.is_none() || entry.value.is_undefined()) continue;
    const std::string key = text_argument(runtime, entry.key);
    if (key.find_first_of(" \t\n\r\f\v/>=") != std::string::npos) {
      runtime.fail(ErrorKind::value_error,
                   fmt::format("Invalid character in attribute name: '{}'", key));
    }
    if (runtime.failed()) return Value();
    if (!out.empty()) out += " ";
    out += escaped(entry.key) + "=\"" + escaped(entry.value) + "\"";
  }
  if (!out.empty() && flag_argument(runtime, bound[0], true)) out = " " + out;
  return runtime.string(std::move(out));
}

constexpr FilterEntry kFilters[] = {
    {"capitalize", filter_capitalize},
    {"center", filter_center},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"forceescape", filter_forceescape},
    {"format", filter_format},
    {"indent", filter_indent},
    {"join", filter_join},
    {"lower", filter_lower},
    {"replace", filter_replace},
    {"safe", filter_safe},
    {"string", filter_string},
    {"striptags", filter_striptags},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"truncate", filter_truncate},
    {"upper", filter_upper},
    {"urlencode", filter_urlencode},
    {"wordcount", filter_wordcount},
    {"xmlattr", filter_xmlattr},
};

}  // namespace

std::span<const FilterEntry> text_filters() {
  return kFilters;
}

}  // namespace nibble::tokenizer::jinja
