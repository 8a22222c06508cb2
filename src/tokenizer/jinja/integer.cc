// Integers of any size on boost::multiprecision, and the text of floats.
#include "tokenizer/jinja/integer.h"

#include "base/check.h"
#include "tokenizer/jinja/runtime.h"

#include <boost/multiprecision/cpp_int.hpp>

#include <charconv>
#include <cmath>

namespace nibble::tokenizer::jinja {

using boost::multiprecision::cpp_int;

struct BigInteger {
  cpp_int value;
};

namespace {

constexpr unsigned kMaxIntegerBits = 16384;

cpp_int widen(const Value& value) {
  if (value.is(ValueKind::big_integer)) return value.as_big_integer().value;
  return cpp_int(value.as_integer());
}

Value normalise(Runtime& runtime, cpp_int value) {
  if (value >= std::numeric_limits<int64_t>::min() &&
      value <= std::numeric_limits<int64_t>::max()) {
    return Value::integer(value.convert_to<int64_t>());
  }
  if (msb(abs(value)) >= kMaxIntegerBits) {
    return runtime.fail(ErrorKind::limit_error, "integer too large");
  }
  runtime.charge(value.backend().size() * sizeof(*value.backend().limbs()));
  return Value::big_integer(std::make_shared<const BigInteger>(BigInteger{std::move(value)}));
}

bool small_binary(IntegerOperation operation, int64_t a, int64_t b, int64_t& result) {
  switch (operation) {
    case IntegerOperation::add:
      return !__builtin_add_overflow(a, b, &result);
    case IntegerOperation::subtract:
      return !__builtin_sub_overflow(a, b, &result);
    case IntegerOperation::multiply:
      return !__builtin_mul_overflow(a, b, &result);
    case IntegerOperation::floor_divide:
      if (b == -1) return !__builtin_sub_overflow(int64_t{0}, a, &result);
      result = a / b - ((a % b != 0) && ((a < 0) != (b < 0)) ? 1 : 0);
      return true;
    case IntegerOperation::modulo:
      if (b == -1) {
        result = 0;
        return true;
      }
      result = a % b;
      if (result != 0 && ((result < 0) != (b < 0))) result += b;
      return true;
  }
  return false;
}

bool is_zero(const Value& value) {
  return integer_sign(value) == 0;
}

}  // namespace

Value integer_binary(Runtime& runtime, IntegerOperation operation, const Value& a, const Value& b) {
  const bool divides =
      operation == IntegerOperation::floor_divide || operation == IntegerOperation::modulo;
  if (divides && is_zero(b)) {
    return runtime.fail(ErrorKind::zero_division_error, operation == IntegerOperation::modulo
                                                            ? "integer modulo by zero"
                                                            : "integer division or modulo by zero");
  }
  const bool small = !a.is(ValueKind::big_integer) && !b.is(ValueKind::big_integer);
  int64_t result = 0;
  if (small && small_binary(operation, a.as_integer(), b.as_integer(), result)) {
    return Value::integer(result);
  }
  runtime.step(integer_cost(a) * integer_cost(b));
  const cpp_int x = widen(a);
  const cpp_int y = widen(b);
  switch (operation) {
    case IntegerOperation::add:
      return normalise(runtime, x + y);
    case IntegerOperation::subtract:
      return normalise(runtime, x - y);
    case IntegerOperation::multiply:
      return normalise(runtime, x * y);
    case IntegerOperation::floor_divide:
    case IntegerOperation::modulo: {
      cpp_int quotient = x / y;
      cpp_int remainder = x % y;
      if (remainder != 0 && (remainder < 0) != (y < 0)) {
        remainder += y;
        quotient -= 1;
      }
      return normalise(runtime, operation == IntegerOperation::modulo ? remainder : quotient);
    }
  }
  return Value();
}

Value integer_power(Runtime& runtime, const Value& base, const Value& exponent) {
  const cpp_int x = widen(base);
  if (x == 0 || x == 1) {
    return Value::integer(x == 0 && is_zero(exponent) ? 1 : x.convert_to<int64_t>());
  }
  if (x == -1) {
    const bool odd = (widen(exponent) & 1) != 0;
    return Value::integer(odd ? -1 : 1);
  }
  const uint64_t bits = msb(abs(x)) + 1;
  if (exponent.is(ValueKind::big_integer) ||
      static_cast<uint64_t>(exponent.as_integer()) > kMaxIntegerBits ||
      (bits - 1) * static_cast<uint64_t>(exponent.as_integer()) > kMaxIntegerBits) {
    return runtime.fail(ErrorKind::limit_error, "integer too large");
  }
  return normalise(runtime, pow(x, static_cast<unsigned>(exponent.as_integer())));
}

Value integer_negate(Runtime& runtime, const Value& value) {
  return integer_binary(runtime, IntegerOperation::subtract, Value::integer(0), value);
}

Value integer_from_digits(Runtime& runtime, std::string_view digits, int base) {
  int64_t small = 0;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), small, base);
  if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) {
    return Value::integer(small);
  }
  // Python refuses longer decimal texts too (sys.int_info.default_max_str_digits).
  if (digits.size() > 4300) {
    return runtime.fail(ErrorKind::value_error, "integer text has more than 4300 digits");
  }
  cpp_int value = 0;
  for (const char c : digits) {
    const int lower = c | 0x20;
    const int digit = c <= '9' ? c - '0' : lower - 'a' + 10;
    value = value * base + digit;
  }
  return normalise(runtime, std::move(value));
}

Value integer_from_double(Runtime& runtime, double value) {
  NIBBLE_CHECK(std::isfinite(value), "integer_from_double of a number without integer part");
  const double truncated = std::trunc(value);
  if (std::abs(truncated) < 9.0e18) return Value::integer(static_cast<int64_t>(truncated));
  return normalise(runtime, cpp_int(truncated));
}

uint64_t integer_cost(const Value& value) {
  if (!value.is(ValueKind::big_integer)) return 1;
  return 1 + value.as_big_integer().value.backend().size() / 4;
}

double integer_to_double(const Value& value) {
  if (value.is(ValueKind::big_integer)) {
    // The library's own conversion throws beyond the range of double.
    return integer_divide_exactly(value, Value::integer(1));
  }
  return static_cast<double>(value.as_integer());
}

double integer_divide_exactly(const Value& a, const Value& b) {
  if (!a.is(ValueKind::big_integer) && !b.is(ValueKind::big_integer)) {
    // long double holds both exactly; only the quotient is rounded.
    return static_cast<double>(static_cast<long double>(a.as_integer()) /
                               static_cast<long double>(b.as_integer()));
  }
  const cpp_int x = abs(widen(a));
  const cpp_int y = abs(widen(b));
  if (x == 0) return 0;
  // At least 66 bits of quotient, the last one standing for all that follow: rounded once.
  const int shift = 66 + static_cast<int>(msb(y)) - static_cast<int>(msb(x));
  const cpp_int numerator = shift > 0 ? cpp_int(x << static_cast<unsigned>(shift)) : x;
  const cpp_int divisor = shift < 0 ? cpp_int(y << static_cast<unsigned>(-shift)) : y;
  cpp_int quotient = numerator / divisor;
  if (numerator % divisor != 0) quotient |= 1;
  const double magnitude = std::ldexp(quotient.convert_to<double>(), -shift);  // 68 bits at most
  return integer_sign(a) == integer_sign(b) ? magnitude : -magnitude;
}

std::string integer_to_string(const Value& value, int base) {
  if (!value.is(ValueKind::big_integer)) {
    char buffer[72];
    const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value.as_integer(), base);
    return std::string(buffer, end.ptr);
  }
  const cpp_int& big = value.as_big_integer().value;
  if (base == 10) return big.str();
  std::string digits;
  cpp_int rest = abs(big);
  while (rest != 0) {
    const auto digit = static_cast<unsigned>(rest % static_cast<unsigned>(base));
    digits.insert(digits.begin(), "0123456789abcdef"[digit]);
    rest /= static_cast<unsigned>(base);
  }
  return big < 0 ? "-" + digits : digits;
}

int integer_compare(const Value& a, const Value& b) {
  if (!a.is(ValueKind::big_integer) && !b.is(ValueKind::big_integer)) {
    const int64_t x = a.as_integer();
    const int64_t y = b.as_integer();
    return x < y ? -1 : (x > y ? 1 : 0);
  }
  const int order = widen(a).compare(widen(b));
  return order < 0 ? -1 : (order > 0 ? 1 : 0);
}

int integer_compare(const Value& a, double b) {
  if (std::isinf(b)) return b > 0 ? -1 : 1;
  if (!a.is(ValueKind::big_integer) && std::abs(b) < 9.0e18) {
    // long double holds every int64 exactly.
    const auto x = static_cast<long double>(a.as_integer());
    const auto y = static_cast<long double>(b);
    return x < y ? -1 : (x > y ? 1 : 0);
  }
  const double whole = std::trunc(b);
  const int order = widen(a).compare(cpp_int(whole));
  if (order != 0) return order < 0 ? -1 : 1;
  return b > whole ? -1 : (b < whole ? 1 : 0);
}

int integer_sign(const Value& value) {
  if (value.is(ValueKind::big_integer)) return value.as_big_integer().value.sign();
  const int64_t x = value.as_integer();
  return x < 0 ? -1 : (x > 0 ? 1 : 0);
}

uint64_t integer_hash(const Value& value) {
  // Must agree with the hash of an equal float, so it goes through double.
  const double number = integer_to_double(value);
  return std::hash<double>()(number);
}

std::string float_repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t mark = text.find('e');
  const int exponent = std::atoi(std::string(text.substr(mark + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(text);
  std::string digits;
  for (const char c : text.substr(0, mark)) {
    if (c >= '0' && c <= '9') digits.push_back(c);
  }
  std::string out = text[0] == '-' ? "-" : "";
  if (exponent < 0) {
    return out + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  }
  const auto whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace nibble::tokenizer::jinja
