// Methods of str that make or split text. Predicates and searches are in methods_string_query.cc.
#include "tokenizer/jinja/methods_string.h"

#include "base/html.h"
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

Value like(Runtime& runtime, const Value& self, std::string_view text) {
  return runtime.string(std::string(text), self.is_markup());
}

template <std::string (*kFunction)(std::string_view)>
Value method_map(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "str", arguments)) return Value();
  if (!runtime.step(self.as_string().size() / 16)) return Value();
  return like(runtime, self, kFunction(self.as_string()));
}

template <Side kSide>
Value method_strip(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "strip", arguments, {"chars"});
  if (!runtime.step(self.as_string().size() / 256)) return Value();
  if (bound[0].is_missing() || bound[0].is_none()) {
    return like(runtime, self, strip(self.as_string(), kSide));
  }
  const std::string characters = text_argument(runtime, bound[0]);
  return like(runtime, self, strip(self.as_string(), kSide, characters));
}

Value list_of(Runtime& runtime, const Value& self, const std::vector<std::string_view>& parts) {
  std::vector<Value> items;
  items.reserve(parts.size());
  for (const std::string_view part : parts) {
    if (!runtime.step()) return Value();
    items.push_back(like(runtime, self, part));
  }
  return runtime.list(std::move(items));
}

template <bool kFromRight>
Value method_split(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "split", arguments, {"sep", "maxsplit"});
  const int64_t maximum = integer_argument(runtime, bound[1], -1);
  const std::string& text = self.as_string();
  if (!runtime.step(1 + text.size() / 64)) return Value();
  if (bound[0].is_missing() || bound[0].is_none()) {
    return list_of(runtime, self,
                   kFromRight ? split_space_right(text, maximum) : split_space(text, maximum));
  }
  const std::string separator = text_argument(runtime, bound[0]);
  if (separator.empty()) runtime.fail(ErrorKind::value_error, "empty separator");
  if (runtime.failed()) return Value();
  return list_of(
      runtime, self,
      kFromRight ? split_right(text, separator, maximum) : split(text, separator, maximum));
}

Value method_splitlines(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "splitlines", arguments, {"keepends"});
  const bool keeps = flag_argument(runtime, bound[0], false);
  return list_of(runtime, self, split_lines(self.as_string(), keeps));
}

template <bool kFromRight>
Value method_partition(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "partition", arguments, {"sep"}, 1);
  const std::string separator = text_argument(runtime, bound[0]);
  if (separator.empty()) runtime.fail(ErrorKind::value_error, "empty separator");
  if (runtime.failed()) return Value();
  const std::string_view text = self.as_string();
  const size_t found = kFromRight ? text.rfind(separator) : text.find(separator);
  std::string_view parts[3];
  parts[kFromRight ? 2 : 0] = text;
  if (found != std::string_view::npos) {
    parts[0] = text.substr(0, found);
    parts[1] = separator;
    parts[2] = text.substr(found + separator.size());
  }
  return runtime.tuple({like(runtime, self, parts[0]), like(runtime, self, parts[1]),
                        like(runtime, self, parts[2])});
}

Value method_replace(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "replace", arguments, {"old", "new", "count"}, 2);
  if (runtime.failed()) return Value();
  const int64_t count = integer_argument(runtime, bound[2], -1);
  const std::string from = text_argument(runtime, bound[0]);
  std::string to = text_argument(runtime, bound[1]);
  if (self.is_markup() && !bound[1].is_markup()) to = escape_html(to);
  if (runtime.failed()) return Value();
  return replace_text(runtime, self.as_string(), from, to, count, self.is_markup());
}

template <bool kPrefix>
Value method_remove(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "removeprefix", arguments, {"prefix"}, 1);
  const std::string part = text_argument(runtime, bound[0]);
  std::string_view text = self.as_string();
  const bool fits = text.size() >= part.size();
  if (kPrefix && fits && text.substr(0, part.size()) == part) text.remove_prefix(part.size());
  if (!kPrefix && fits && text.substr(text.size() - part.size()) == part) {
    text.remove_suffix(part.size());
  }
  return like(runtime, self, text);
}

Value method_join(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "join", arguments, {"iterable"}, 1);
  if (runtime.failed()) return Value();
  if (!is_iterable(bound[0])) {
    return runtime.fail(ErrorKind::type_error, "can only join an iterable");
  }
  const auto items = collect(runtime, bound[0]);
  std::string out;
  for (size_t i = 0; i < items.size(); ++i) {
    if (runtime.failed()) return Value();
    if (!items[i].is_string() && !self.is_markup()) {
      return runtime.fail(
          ErrorKind::type_error,
          fmt::format("sequence item {}: expected str instance, {} found", i, type_name(items[i])));
    }
    if (i > 0) out += self.as_string();
    const bool escapes = self.is_markup() && !items[i].is_markup();
    out += escapes ? escape_html(text_argument(runtime, items[i])) : items[i].as_string();
    if (!runtime.charge(self.as_string().size() + out.size() / 64)) return Value();
  }
  return like(runtime, self, out);
}

Value method_format(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  return brace_format(runtime, self, arguments);
}

Value method_format_map(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "format_map", arguments, {"mapping"}, 1);
  if (runtime.failed()) return Value();
  if (!bound[0].is_dict()) {
    return runtime.fail(ErrorKind::type_error, "format_map() wants a mapping");
  }
  CallArguments fields;
  for (const auto& entry : bound[0].as_dict().entries()) {
    if (entry.key.is_string()) fields.keywords.emplace_back(entry.key.as_string(), entry.value);
  }
  return brace_format(runtime, self, fields);
}

// center, ljust, rjust: where the text stands is the FormatSpec's letter.
template <char kAlign>
Value method_pad(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "center", arguments, {"width", "fillchar"}, 1);
  const int64_t width = runtime.failed() ? 0 : integer_argument(runtime, bound[0]);
  const std::string fill = bound[1].is_missing() ? " " : text_argument(runtime, bound[1]);
  if (text_length(fill) != 1) {
    runtime.fail(ErrorKind::type_error, "The fill character must be exactly one character long");
  }
  if (runtime.failed()) return Value();
  return pad_string(runtime, self.as_string(), width, fill, kAlign, self.is_markup());
}

Value method_zfill(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "zfill", arguments, {"width"}, 1);
  const int64_t width = runtime.failed() ? 0 : integer_argument(runtime, bound[0]);
  std::string_view text = self.as_string();
  const bool has_sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  const std::string sign(text.substr(0, has_sign ? 1 : 0));
  text.remove_prefix(sign.size());
  const Value padded = pad_string(runtime, text, width - static_cast<int64_t>(sign.size()), "0",
                                  '>', self.is_markup());
  return runtime.failed() ? Value() : like(runtime, self, sign + padded.as_string());
}

Value method_expandtabs(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "expandtabs", arguments, {"tabsize"});
  const int64_t size = std::clamp<int64_t>(integer_argument(runtime, bound[0], 8), 0, 1000);
  std::u32string out;
  int64_t column = 0;
  for (const char32_t c : decode_text(self.as_string())) {
    if (c != '\t') {
      out.push_back(c);
      column = c == '\n' || c == '\r' ? 0 : column + 1;
      continue;
    }
    const int64_t blanks = size == 0 ? 0 : size - column % size;
    if (!runtime.charge(static_cast<size_t>(blanks))) return Value();
    out.append(static_cast<size_t>(blanks), U' ');
    column += blanks;
  }
  return like(runtime, self, encode_text(out));
}

constexpr MethodEntry kMethods[] = {
    {"capitalize", method_map<capitalize>},
    {"casefold", method_map<fold_case>},
    {"center", method_pad<'^'>},
    {"count", string_count},
    {"endswith", string_endswith},
    {"expandtabs", method_expandtabs},
    {"find", string_find},
    {"format", method_format},
    {"format_map", method_format_map},
    {"index", string_index},
    {"isalnum", string_isalnum},
    {"isalpha", string_isalpha},
    {"isascii", string_isascii},
    {"isdecimal", string_isdecimal},
    {"isdigit", string_isdigit},
    {"isidentifier", string_isidentifier},
    {"islower", string_islower},
    {"isnumeric", string_isnumeric},
    {"isprintable", string_isprintable},
    {"isspace", string_isspace},
    {"istitle", string_istitle},
    {"isupper", string_isupper},
    {"join", method_join},
    {"ljust", method_pad<'<'>},
    {"lower", method_map<to_lower>},
    {"lstrip", method_strip<Side::left>},
    {"partition", method_partition<false>},
    {"removeprefix", method_remove<true>},
    {"removesuffix", method_remove<false>},
    {"replace", method_replace},
    {"rfind", string_rfind},
    {"rindex", string_rindex},
    {"rjust", method_pad<'>'>},
    {"rpartition", method_partition<true>},
    {"rsplit", method_split<true>},
    {"rstrip", method_strip<Side::right>},
    {"split", method_split<false>},
    {"splitlines", method_splitlines},
    {"startswith", string_startswith},
    {"strip", method_strip<Side::both>},
    {"swapcase", method_map<swap_case>},
    {"title", method_map<to_title>},
    {"upper", method_map<to_upper>},
    {"zfill", method_zfill},
    {"encode", string_unsupported},
    {"maketrans", string_unsupported},
    {"translate", string_unsupported},
};

}  // namespace

std::span<const MethodEntry> string_methods() {
  return kMethods;
}

Value pad_string(Runtime& runtime, std::string_view text, int64_t width, std::string_view fill,
                 char align, bool is_markup) {
  const auto length = static_cast<int64_t>(text_length(text));
  const int64_t missing = std::max<int64_t>(width - length, 0);
  if (static_cast<uint64_t>(missing) > runtime.limits().max_made_bytes ||
      !runtime.charge(static_cast<size_t>(missing) * fill.size())) {
    return runtime.fail(ErrorKind::limit_error, "template makes too much data");
  }
  // str.center puts the odd blank on the left when the width is odd.
  int64_t left = align == '<' ? 0 : missing;
  if (align == '^') left = missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (int64_t i = left; i < missing; ++i) out += fill;
  return runtime.string(std::move(out), is_markup);
}

Value center_text(Runtime& runtime, std::string_view text, int64_t width, std::string_view fill,
                  bool is_markup) {
  return pad_string(runtime, text, width, fill, '^', is_markup);
}

Value replace_text(Runtime& runtime, std::string_view text, std::string_view from,
                   std::string_view to, int64_t count, bool is_markup) {
  const size_t occurrences = count_occurrences(text, from);
  if (!runtime.charge(text.size() + occurrences * to.size())) return Value();
  return runtime.string(replace_all(text, from, to, count), is_markup);
}

}  // namespace nibble::tokenizer::jinja
