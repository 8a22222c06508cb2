// Layout of formatted numbers and texts.
#include "tokenizer/jinja/format_spec.h"

#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace nibble::tokenizer::jinja {
namespace {

// Inserts the separator every `group` digits from the right of the leading digits.
std::string group_digits(const std::string& body, char separator, size_t group) {
  const auto is_digit = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
  };
  const auto end =
      static_cast<size_t>(std::find_if_not(body.begin(), body.end(), is_digit) - body.begin());
  std::string out;
  for (size_t i = 0; i < end; ++i) {
    if (i > 0 && (end - i) % group == 0) out += separator;
    out += body[i];
  }
  return out + body.substr(end);
}

// sign and prefix go in front of padding zeros ('=' alignment), behind other padding.
std::string pad_number(std::string_view sign, std::string_view prefix, std::string body,
                       const FormatSpec& spec, size_t group) {
  const bool pads_inside = spec.align == '=';
  if (spec.grouping != 0) {
    // Zero padding takes part in the grouping.
    if (pads_inside && spec.fill == "0") {
      const size_t wanted =
          static_cast<size_t>(spec.width) -
          std::min<size_t>(sign.size() + prefix.size(), static_cast<size_t>(spec.width));
      while (group_digits("0" + body, spec.grouping, group).size() <= wanted) body = "0" + body;
    }
    body = group_digits(body, spec.grouping, group);
  }
  if (!pads_inside) {
    return pad_text(std::string(sign) + std::string(prefix) + body, spec, '>');
  }
  FormatSpec inner = spec;
  inner.width =
      std::max<int64_t>(0, spec.width - static_cast<int64_t>(sign.size() + prefix.size()));
  inner.align = '>';
  return std::string(sign) + std::string(prefix) + pad_text(body, inner, '>');
}

std::string sign_text(bool is_negative, char sign) {
  if (is_negative) return "-";
  return sign == '-' ? "" : std::string(1, sign);
}

std::string print_double(double value, char type, int precision, bool alternate) {
  char format[8];
  std::snprintf(format, sizeof(format), alternate ? "%%#.*%c" : "%%.*%c", type);
  const int length = std::snprintf(nullptr, 0, format, precision, value);
  std::string out(static_cast<size_t>(std::max(length, 0)) + 1, '\0');
  std::snprintf(out.data(), out.size(), format, precision, value);
  out.pop_back();
  return out;
}

// No type: like 'g' with enough digits, but never without a fraction.
std::string shortest(double value, int64_t precision) {
  if (precision < 0) return float_repr(value);
  std::string text =
      print_double(value, 'g', static_cast<int>(std::max<int64_t>(precision, 1)), false);
  const size_t digits = static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; }));
  if (text.find_first_of(".en") != std::string::npos) return text;
  // Python switches to an exponent one digit earlier than %g here.
  if (static_cast<int64_t>(digits) >= precision) {
    text = print_double(value, 'e', static_cast<int>(std::max<int64_t>(precision - 1, 0)), false);
    const size_t mark = text.find('e');
    std::string mantissa = text.substr(0, mark);
    if (mantissa.find('.') != std::string::npos) {
      mantissa.erase(mantissa.find_last_not_of('0') + 1);
      if (mantissa.back() == '.') mantissa.pop_back();
    }
    return mantissa + text.substr(mark);
  }
  return text + ".0";
}

bool check_width(Runtime& runtime, const FormatSpec& spec) {
  if (spec.width <= kMaxFormatWidth && spec.precision <= kMaxFormatWidth) {
    return runtime.step(1 + static_cast<uint64_t>(std::max<int64_t>(spec.width, 0)) / 16 +
                        static_cast<uint64_t>(std::max<int64_t>(spec.precision, 0)) / 16);
  }
  runtime.fail(ErrorKind::limit_error, "format width or precision too large");
  return false;
}

}  // namespace

std::string pad_text(std::string_view text, const FormatSpec& spec, char default_align) {
  const auto length = static_cast<int64_t>(text_length(text));
  if (spec.width <= length) return std::string(text);
  const auto missing = static_cast<size_t>(spec.width - length);
  const char align = spec.align == 0 ? default_align : spec.align;
  const size_t left = align == '<' ? 0 : (align == '^' ? missing / 2 : missing);
  std::string out;
  for (size_t i = 0; i < left; ++i) out += spec.fill;
  out += text;
  for (size_t i = left; i < missing; ++i) out += spec.fill;
  return out;
}

std::string format_integer(Runtime& runtime, const Value& value, const FormatSpec& spec) {
  const uint64_t cost = integer_cost(value);
  if (!check_width(runtime, spec) || !runtime.step(cost * cost)) return "";
  if (spec.type == 'c') {
    const bool fits =
        value.is(ValueKind::integer) && value.as_integer() >= 0 && value.as_integer() < 0x110000;
    if (!fits) {
      runtime.fail(ErrorKind::overflow_error, "%c arg not in range(0x110000)");
      return "";
    }
    return pad_text(encode_text(static_cast<char32_t>(value.as_integer())), spec, '<');
  }
  int base = 10;
  std::string prefix;
  if (spec.type == 'x' || spec.type == 'X') base = 16;
  if (spec.type == 'o') base = 8;
  if (spec.type == 'b') base = 2;
  if (spec.alternate && base != 10) prefix = std::string("0") + spec.type;
  std::string digits = integer_to_string(value, base);
  const bool is_negative = digits[0] == '-';
  if (is_negative) digits.erase(0, 1);
  if (spec.type == 'X') {
    std::transform(digits.begin(), digits.end(), digits.begin(),
                   [](char c) { return c >= 'a' ? static_cast<char>(c - 32) : c; });
  }
  return pad_number(sign_text(is_negative, spec.sign), prefix, digits, spec, base == 10 ? 3 : 4);
}

std::string format_float(Runtime& runtime, double value, const FormatSpec& spec) {
  if (!check_width(runtime, spec)) return "";
  const bool is_negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::abs(value);
  const bool is_upper = spec.type == 'E' || spec.type == 'F' || spec.type == 'G';
  std::string body;
  if (!std::isfinite(value)) {
    body = std::isnan(value) ? "nan" : "inf";
    if (is_upper) body = to_upper(body);
    if (spec.type == '%') body += '%';
  } else if (spec.type == 0) {
    body = shortest(magnitude, spec.precision);
  } else {
    const auto precision = static_cast<int>(spec.precision < 0 ? 6 : spec.precision);
    const char type = spec.type == 'n' ? 'g' : (spec.type == '%' ? 'f' : spec.type);
    body = print_double(spec.type == '%' ? magnitude * 100 : magnitude, type, precision,
                        spec.alternate);
    if (spec.type == '%') body += '%';
  }
  return pad_number(sign_text(is_negative, spec.sign), "", body, spec, 3);
}

}  // namespace nibble::tokenizer::jinja
