// "{} {name.attr[0]!r:>8}".format(...).
#include "base/html.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/format_spec.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

bool is_decimal_text(std::string_view text) {
  return !text.empty() && text.size() < 10 &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, bool is_markup, const CallArguments& arguments)
      : runtime_(runtime), is_markup_(is_markup), arguments_(arguments) {}

  // Format specs may hold fields themselves, one level deep.
  std::string run(std::string_view format, int level) {
    std::string out;
    size_t at = 0;
    while (at < format.size() && !runtime_.failed()) {
      const char c = format[at];
      const bool doubled = at + 1 < format.size() && format[at + 1] == c;
      if (c != '{' && c != '}') {
        out += c;
        ++at;
      } else if (doubled && level == 0) {
        out += c;
        at += 2;
      } else if (c == '}') {
        fail(ErrorKind::value_error, "Single '}' encountered in format string");
      } else {
        at = field(format, at + 1, level, out);
      }
    }
    return out;
  }

 private:
  void fail(ErrorKind kind, std::string message) { runtime_.fail(kind, std::move(message)); }

  // One field from after its brace; returns the offset after its closing brace.
  size_t field(std::string_view format, size_t start, int level, std::string& out) {
    int depth = 1;
    size_t end = start;
    size_t colon = std::string_view::npos;
    size_t mark = std::string_view::npos;
    bool in_brackets = false;
    for (; end < format.size(); ++end) {
      const char c = format[end];
      if (colon == std::string_view::npos && depth == 1) {
        if (c == '[') in_brackets = true;
        if (c == ']') in_brackets = false;
        if (c == ':' && !in_brackets) colon = end;
        if (c == '!' && !in_brackets && mark == std::string_view::npos) mark = end;
      }
      if (c == '{') ++depth;
      if (c == '}' && --depth == 0) break;
    }
    if (end >= format.size()) {
      fail(ErrorKind::value_error, "expected '}' before end of string");
      return end;
    }
    if (level >= 2) {
      fail(ErrorKind::value_error, "Max string recursion exceeded");
      return end;
    }
    const size_t name_end = std::min({colon, mark, end});
    const Value value = lookup(format.substr(start, name_end - start));
    char conversion = 0;
    if (mark != std::string_view::npos && mark + 1 < end) conversion = format[mark + 1];
    std::string spec;
    if (colon != std::string_view::npos) {
      spec = run(format.substr(colon + 1, end - colon - 1), level + 1);
    }
    if (!runtime_.failed()) append(convert(value, conversion), spec, out);
    return end + 1;
  }

  Value lookup(std::string_view name) {
    const size_t first_end = std::min(name.find_first_of(".["), name.size());
    Value value = root(name.substr(0, first_end));
    size_t at = first_end;
    while (at < name.size() && !runtime_.failed()) {
      if (name[at] == '.') {
        const size_t end = std::min(name.find_first_of(".[", at + 1), name.size());
        value = get_attribute(runtime_, value, name.substr(at + 1, end - at - 1));
        at = end;
      } else {
        const size_t end = name.find(']', at);
        if (end == std::string_view::npos) {
          fail(ErrorKind::value_error, "Missing ']' in format string");
          break;
        }
        const std::string_view key = name.substr(at + 1, end - at - 1);
        value = get_element(runtime_, value,
                            is_decimal_text(key) ? Value::integer(std::stoll(std::string(key)))
                                                 : runtime_.string(std::string(key)));
        at = end + 1;
      }
    }
    return value;
  }

  Value root(std::string_view name) {
    if (name.empty() || is_decimal_text(name)) {
      const size_t index = name.empty() ? next_index_++ : std::stoul(std::string(name));
      if (index < arguments_.positional.size()) return arguments_.positional[index];
      return runtime_.fail(ErrorKind::value_error,
                           fmt::format("Replacement index {} out of range for positional args "
                                       "tuple",
                                       index));
    }
    for (const auto& [key, value] : arguments_.keywords) {
      if (key == name) return value;
    }
    return runtime_.fail(ErrorKind::key_error, fmt::format("'{}'", name));
  }

  Value convert(const Value& value, char conversion) {
    if (conversion == 0) return value;
    std::string text;
    if (conversion == 's') {
      text = to_text(runtime_, value);
    } else if (conversion == 'a' && value.is_string()) {
      append_text_repr(value.as_string(), text, true);
    } else if (conversion == 'r' || conversion == 'a') {
      append_repr(runtime_, value, text);
    } else {
      fail(ErrorKind::value_error, fmt::format("Unknown conversion specifier {}", conversion));
    }
    return runtime_.string(std::move(text));
  }

  void append(const Value& value, const std::string& spec_text, std::string& out) {
    const FormatSpec spec = parse_spec(spec_text);
    if (runtime_.failed()) return;
    std::string text;
    const bool wants_float =
        spec.type != 0 && std::string_view("eEfFgG%").find(spec.type) != std::string_view::npos;
    if (value.is(ValueKind::floating) || (value.is_integral() && wants_float)) {
      text = format_float(runtime_, number_argument(runtime_, value), spec);
    } else if (value.is_integral() && (!value.is(ValueKind::boolean) || spec.type != 0)) {
      if (spec.type == 's') return fail_type(spec, value);
      text = format_integer(runtime_, value, spec);
    } else if (value.is_string() || spec_text.empty() || value.is(ValueKind::boolean)) {
      if (spec.type != 0 && spec.type != 's') return fail_type(spec, value);
      if (spec.align == '=' && spec_text.find('=') != std::string::npos) {
        return fail(ErrorKind::value_error, "'=' alignment not allowed in string format specifier");
      }
      text = to_text(runtime_, value);
      if (is_markup_ && !value.is_markup()) text = escape_html(text);
      if (spec.precision >= 0) {
        text = text.substr(0, byte_offset(text, static_cast<size_t>(spec.precision)));
      }
      FormatSpec layout = spec;
      if (layout.align == '=') layout.align = '<';
      text = pad_text(text, layout, '<');
    } else {
      return fail(
          ErrorKind::type_error,
          fmt::format("unsupported format string passed to {}.__format__", type_name(value)));
    }
    out += text;
    runtime_.charge(text.size());
  }

  void fail_type(const FormatSpec& spec, const Value& value) {
    fail(ErrorKind::value_error, fmt::format("Unknown format code '{}' for object of type '{}'",
                                             spec.type, type_name(value)));
  }

  // [[fill]align][sign][#][0][width][grouping][.precision][type]
  FormatSpec parse_spec(const std::string& source) {
    FormatSpec spec;
    const std::u32string text = decode_text(source);
    size_t at = 0;
    const auto peek = [&](size_t ahead = 0) -> char32_t {
      return at + ahead < text.size() ? text[at + ahead] : 0;
    };
    const auto is_align = [](char32_t c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    if (is_align(peek(1))) {
      spec.fill = encode_text(peek());
      spec.align = static_cast<char>(peek(1));
      at += 2;
    } else if (is_align(peek())) {
      spec.align = static_cast<char>(text[at++]);
    }
    if (peek() == '+' || peek() == '-' || peek() == ' ') spec.sign = static_cast<char>(text[at++]);
    if (peek() == '#') {
      spec.alternate = true;
      ++at;
    }
    if (peek() == '0') {
      if (spec.align == 0) {
        spec.align = '=';
        spec.fill = "0";
      }
      ++at;
    }
    const auto number = [&] {
      int64_t value = 0;
      while (peek() >= '0' && peek() <= '9') {
        value = std::min(value * 10 + static_cast<int64_t>(text[at++] - '0'), kMaxFormatWidth + 1);
      }
      return value;
    };
    spec.width = number();
    if (peek() == ',' || peek() == '_') spec.grouping = static_cast<char>(text[at++]);
    if (peek() == '.') {
      ++at;
      spec.precision = number();
    }
    if (at < text.size() && text[at] < 0x80) spec.type = static_cast<char>(text[at++]);
    const bool known = spec.type == 0 || std::string_view("sdbcoxXneEfFgG%").find(spec.type) !=
                                             std::string_view::npos;
    if (spec.width > kMaxFormatWidth || spec.precision > kMaxFormatWidth) {
      fail(ErrorKind::limit_error, "format width or precision too large");
    }
    if (at < text.size() || !known) {
      fail(ErrorKind::value_error, fmt::format("Invalid format specifier '{}'", source));
    }
    if (spec.type == 'n') spec.type = 'd';
    return spec;
  }

  Runtime& runtime_;
  bool is_markup_;
  const CallArguments& arguments_;
  size_t next_index_ = 0;
};

}  // namespace

Value brace_format(Runtime& runtime, const Value& format, const CallArguments& arguments) {
  std::string text =
      BraceFormatter(runtime, format.is_markup(), arguments).run(format.as_string(), 0);
  return runtime.failed() ? Value() : runtime.string(std::move(text), format.is_markup());
}

}  // namespace nibble::tokenizer::jinja
