// Reading numbers from text.
#include "tokenizer/jinja/number_text.h"

#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/text.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

namespace nibble::tokenizer::jinja {
namespace {

// Stripped, and every decimal digit of any script as ASCII.
std::string plain_digits(std::string_view text) {
  std::string out;
  for (const char32_t c : decode_text(strip(text, Side::both))) {
    if (c < 0x80) {
      out.push_back(static_cast<char>(c));
      continue;
    }
    if (!is_decimal(c)) return "?";
    // Decimal digits come in runs of ten, zero first.
    char32_t zero = c;
    while (c - zero < 9 && is_decimal(zero - 1)) --zero;
    out.push_back(static_cast<char>('0' + (c - zero) % 10));
  }
  return out;
}

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'z' ? lower - 'a' + 10 : 99;
}

// Removes single underscores between digits; false when one stands elsewhere.
bool remove_underscores(std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out.push_back(text[i]);
      continue;
    }
    const bool between = i > 0 && i + 1 < text.size() && digit_value(text[i - 1]) < 36 &&
                         digit_value(text[i + 1]) < 36;
    if (!between) return false;
  }
  text = std::move(out);
  return true;
}

int prefix_base(std::string_view text) {
  if (text.size() < 2 || text[0] != '0') return 10;
  switch (text[1] | 0x20) {
    case 'x':
      return 16;
    case 'o':
      return 8;
    case 'b':
      return 2;
    default:
      return 10;
  }
}

}  // namespace

Value parse_integer_text(Runtime& runtime, std::string_view source, int64_t base) {
  std::string text = plain_digits(source);
  bool is_negative = false;
  if (!text.empty() && (text[0] == '-' || text[0] == '+')) {
    is_negative = text[0] == '-';
    text.erase(0, 1);
  }
  const int prefix = prefix_base(text);
  const bool has_prefix = prefix != 10 && (base == prefix || base == 0);
  if (base == 0) base = prefix;
  if (has_prefix) text.erase(0, text.size() > 2 && text[2] == '_' ? 3 : 2);
  if (base < 2 || base > 36 || text.empty() || !remove_underscores(text)) return Value::missing();
  for (const char c : text) {
    if (digit_value(c) >= base) return Value::missing();
  }
  const Value number = integer_from_digits(runtime, text, static_cast<int>(base));
  return is_negative && !runtime.failed() ? integer_negate(runtime, number) : number;
}

std::optional<double> parse_float_text(std::string_view source) {
  std::string text = plain_digits(source);
  if (text.empty() || !remove_underscores(text)) return std::nullopt;
  const size_t start = text[0] == '-' || text[0] == '+' ? 1 : 0;
  const std::string body = to_lower(text.substr(start));
  const double sign = text[0] == '-' ? -1 : 1;
  if (body == "inf" || body == "infinity") {
    return sign * std::numeric_limits<double>::infinity();
  }
  if (body == "nan") return std::numeric_limits<double>::quiet_NaN();
  // strtod also reads hexadecimal numbers, which float() does not.
  if (body.find_first_not_of("0123456789.e+-") != std::string::npos || body.empty()) {
    return std::nullopt;
  }
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (*end != '\0') return std::nullopt;
  return value;
}

}  // namespace nibble::tokenizer::jinja
