// "%s %5.2f %(name)r" % values.
#include "base/html.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/format_spec.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::tokenizer::jinja {
namespace {

class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const Value& format, const Value& values)
      : runtime_(runtime),
        format_(format.as_string()),
        is_markup_(format.is_markup()),
        values_(values) {}

  Value run() {
    while (at_ < format_.size() && !runtime_.failed()) {
      const size_t percent = std::min(format_.find('%', at_), format_.size());
      out_ += format_.substr(at_, percent - at_);
      at_ = percent + 1;
      if (percent < format_.size()) convert();
      if (!runtime_.charge(out_.size() / 8)) break;
    }
    check_all_used();
    return runtime_.failed() ? Value() : runtime_.string(std::move(out_), is_markup_);
  }

 private:
  Value fail(ErrorKind kind, std::string message) {
    return runtime_.fail(kind, std::move(message));
  }

  char peek() const { return at_ < format_.size() ? format_[at_] : '\0'; }

  void check_all_used() {
    if (runtime_.failed() || used_mapping_) return;
    const bool all_used = values_.is(ValueKind::tuple)
                              ? taken_ == values_.as_sequence().items.size()
                              : taken_ > 0 || values_.is_dict() || values_.is(ValueKind::list) ||
                                    values_.is_undefined();
    if (!all_used) {
      fail(ErrorKind::type_error, "not all arguments converted during string formatting");
    }
  }

  Value next_value() {
    if (values_.is(ValueKind::tuple)) {
      const auto& items = values_.as_sequence().items;
      if (taken_ < items.size()) return items[taken_++];
    } else if (taken_++ == 0) {
      return values_;
    }
    return fail(ErrorKind::type_error, "not enough arguments for format string");
  }

  // %(name): the value under that key.
  Value keyed_value() {
    int depth = 1;
    const size_t start = ++at_;
    while (at_ < format_.size() && depth > 0) {
      if (format_[at_] == '(') ++depth;
      if (format_[at_] == ')') --depth;
      ++at_;
    }
    if (depth > 0) return fail(ErrorKind::value_error, "incomplete format key");
    if (!values_.is_dict()) return fail(ErrorKind::type_error, "format requires a mapping");
    used_mapping_ = true;
    const std::string key = format_.substr(start, at_ - 1 - start);
    const Value* found = values_.as_dict().find(key);
    return found != nullptr ? *found : fail(ErrorKind::key_error, fmt::format("'{}'", key));
  }

  int64_t read_number() {
    if (peek() == '*') {
      ++at_;
      const Value value = next_value();
      if (value.is(ValueKind::integer)) return value.as_integer();
      fail(ErrorKind::type_error, "* wants int");
      return 0;
    }
    int64_t number = 0;
    while (peek() >= '0' && peek() <= '9') {
      number = std::min(number * 10 + (format_[at_++] - '0'), kMaxFormatWidth + 1);
    }
    return number;
  }

  void convert() {
    FormatSpec spec;
    Value keyed = Value::missing();
    if (peek() == '(') keyed = keyed_value();
    bool zero = false;
    for (; std::string_view("-+ #0").find(peek()) != std::string_view::npos && peek() != 0; ++at_) {
      if (peek() == '-') spec.align = '<';
      if (peek() == '+') spec.sign = '+';
      if (peek() == ' ' && spec.sign == '-') spec.sign = ' ';
      if (peek() == '#') spec.alternate = true;
      if (peek() == '0') zero = true;
    }
    spec.width = read_number();
    if (spec.width < 0) {
      spec.align = '<';
      spec.width = -spec.width;
    }
    if (peek() == '.') {
      ++at_;
      spec.precision = std::max<int64_t>(read_number(), 0);
    }
    while (peek() == 'l' || peek() == 'h' || peek() == 'L') ++at_;
    if (runtime_.failed()) return;
    if (at_ >= format_.size()) {
      fail(ErrorKind::value_error, "incomplete format");
      return;
    }
    spec.type = format_[at_++];
    if (spec.type == '%') {
      out_ += '%';
      return;
    }
    const Value value = keyed.is_missing() ? next_value() : keyed;
    if (!runtime_.failed()) append(spec, zero, value);
  }

  void append(FormatSpec spec, bool zero, const Value& value) {
    const bool is_number =
        std::string_view("diuxXoeEfFgG").find(spec.type) != std::string_view::npos;
    if (is_number && zero && spec.align == 0) {
      spec.align = '=';
      spec.fill = "0";
    }
    switch (spec.type) {
      case 's':
      case 'r':
      case 'a':
        return append_text(spec, value);
      case 'c':
        return append_character(spec, value);
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o':
        return append_integer(spec, value);
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        return append_float(spec, value);
      default:
        fail(ErrorKind::value_error, fmt::format("unsupported format character '{}'", spec.type));
    }
  }

  void append_text(const FormatSpec& spec, const Value& value) {
    std::string text;
    if (spec.type == 's') {
      text = to_text(runtime_, value);
      if (is_markup_ && !value.is_markup()) text = escape_html(text);
    } else if (value.is_string() && spec.type == 'a') {
      append_text_repr(value.as_string(), text, true);
    } else {
      append_repr(runtime_, value, text);
      if (is_markup_) text = escape_html(text);
    }
    if (spec.precision >= 0) {
      text = text.substr(0, byte_offset(text, static_cast<size_t>(spec.precision)));
    }
    if (spec.width > kMaxFormatWidth) {
      fail(ErrorKind::limit_error, "format width or precision too large");
      return;
    }
    out_ += pad_text(text, spec, '>');
  }

  void append_character(const FormatSpec& spec, const Value& value) {
    if (value.is_string()) {
      if (text_length(value.as_string()) != 1) {
        fail(ErrorKind::type_error, "%c requires int or char");
        return;
      }
      out_ += pad_text(value.as_string(), spec, '>');
    } else if (value.is_integral()) {
      FormatSpec right = spec;
      if (right.align == 0) right.align = '>';
      out_ += format_integer(runtime_, value, right);
    } else {
      fail(ErrorKind::type_error, "%c requires int or char");
    }
  }

  void append_integer(FormatSpec spec, const Value& value) {
    Value number = value;
    const bool is_decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (is_decimal && value.is(ValueKind::floating) && std::isfinite(value.as_floating())) {
      number = integer_from_double(runtime_, value.as_floating());
    }
    if (!number.is_integral()) {
      fail(ErrorKind::type_error,
           fmt::format("%{} format: {} is required, not {}", spec.type,
                       is_decimal ? "a real number" : "an integer", type_name(value)));
      return;
    }
    if (is_decimal) spec.type = 'd';
    // A precision is a minimum number of digits here.
    if (spec.precision >= 0) {
      FormatSpec digits = spec;
      digits.width = spec.precision;
      digits.align = '=';
      digits.fill = "0";
      const bool has_sign = integer_sign(number) < 0 || spec.sign != '-';
      if (has_sign) ++digits.width;
      if (spec.alternate && spec.type != 'd') digits.width += 2;
      out_ += pad_text(format_integer(runtime_, number, digits), spec, '>');
      return;
    }
    out_ += format_integer(runtime_, number, spec);
  }

  void append_float(const FormatSpec& spec, const Value& value) {
    const double number = number_argument(runtime_, value);
    if (!runtime_.failed()) out_ += format_float(runtime_, number, spec);
  }

  Runtime& runtime_;
  const std::string& format_;
  bool is_markup_;
  const Value& values_;
  size_t at_ = 0;
  size_t taken_ = 0;
  bool used_mapping_ = false;
  std::string out_;
};

}  // namespace

Value percent_format(Runtime& runtime, const Value& format, const Value& values) {
  return PercentFormatter(runtime, format, values).run();
}

}  // namespace nibble::tokenizer::jinja
