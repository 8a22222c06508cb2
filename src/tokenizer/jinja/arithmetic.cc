// Python's arithmetic operators, on numbers, strings and sequences.
#include "base/html.h"
#include "tokenizer/jinja/format.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::tokenizer::jinja {
namespace {

const char* operator_symbol(BinaryOperator operation) {
  switch (operation) {
    case BinaryOperator::add:
      return "+";
    case BinaryOperator::subtract:
      return "-";
    case BinaryOperator::multiply:
      return "*";
    case BinaryOperator::divide:
      return "/";
    case BinaryOperator::floor_divide:
      return "//";
    case BinaryOperator::modulo:
      return "%";
    case BinaryOperator::power:
      return "** or pow()";
  }
  return "";
}

Value fail_operands(Runtime& runtime, BinaryOperator operation, const Value& a, const Value& b) {
  return runtime.fail(ErrorKind::type_error,
                      fmt::format("unsupported operand type(s) for {}: '{}' and '{}'",
                                  operator_symbol(operation), type_name(a), type_name(b)));
}

double to_double(Runtime& runtime, const Value& value) {
  if (value.is(ValueKind::floating)) return value.as_floating();
  const double result = integer_to_double(value);
  if (std::isinf(result))
    runtime.fail(ErrorKind::overflow_error, "int too large to convert to float");
  return result;
}

// Python's float modulo: the result has the divisor's sign.
double float_modulo(double a, double b) {
  double result = std::fmod(a, b);
  if (result != 0) {
    if ((b < 0) != (result < 0)) result += b;
  } else {
    result = std::copysign(0.0, b);
  }
  return result;
}

// The quotient is taken before the remainder gets the divisor's sign, as CPython does: same last
// bits.
double float_floor_divide(double a, double b) {
  const double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0 && (b < 0) != (remainder < 0)) quotient -= 1.0;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1.0 : floor;
}

Value float_power(Runtime& runtime, double a, double b) {
  if (a == 0 && b < 0) {
    return runtime.fail(ErrorKind::zero_division_error, "0.0 cannot be raised to a negative power");
  }
  if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::floor(b)) {
    return runtime.fail(ErrorKind::unsupported_error, "complex numbers are not supported");
  }
  const double result = std::pow(a, b);
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) {
    return runtime.fail(ErrorKind::overflow_error, "(34, 'Numerical result out of range')");
  }
  return Value::floating(result);
}

Value float_binary(Runtime& runtime, BinaryOperator operation, const Value& a, const Value& b) {
  const double x = to_double(runtime, a);
  const double y = to_double(runtime, b);
  if (runtime.failed()) return Value();
  const bool divides = operation == BinaryOperator::divide ||
                       operation == BinaryOperator::floor_divide ||
                       operation == BinaryOperator::modulo;
  if (divides && y == 0) {
    const char* text = operation == BinaryOperator::divide         ? "float division by zero"
                       : operation == BinaryOperator::floor_divide ? "float floor division by zero"
                                                                   : "float modulo";
    return runtime.fail(ErrorKind::zero_division_error, text);
  }
  switch (operation) {
    case BinaryOperator::add:
      return Value::floating(x + y);
    case BinaryOperator::subtract:
      return Value::floating(x - y);
    case BinaryOperator::multiply:
      return Value::floating(x * y);
    case BinaryOperator::divide:
      return Value::floating(x / y);
    case BinaryOperator::floor_divide:
      return Value::floating(float_floor_divide(x, y));
    case BinaryOperator::modulo:
      return Value::floating(float_modulo(x, y));
    case BinaryOperator::power:
      return float_power(runtime, x, y);
  }
  return Value();
}

Value integer_divide(Runtime& runtime, const Value& a, const Value& b) {
  if (integer_sign(b) == 0) {
    return runtime.fail(ErrorKind::zero_division_error, "division by zero");
  }
  if (!runtime.step(integer_cost(a) * integer_cost(b))) return Value();
  const double quotient = integer_divide_exactly(a, b);
  if (!std::isinf(quotient)) return Value::floating(quotient);
  return runtime.fail(ErrorKind::overflow_error, "integer division result too large for a float");
}

Value number_binary(Runtime& runtime, BinaryOperator operation, const Value& a, const Value& b) {
  if (a.is(ValueKind::floating) || b.is(ValueKind::floating)) {
    return float_binary(runtime, operation, a, b);
  }
  switch (operation) {
    case BinaryOperator::add:
      return integer_binary(runtime, IntegerOperation::add, a, b);
    case BinaryOperator::subtract:
      return integer_binary(runtime, IntegerOperation::subtract, a, b);
    case BinaryOperator::multiply:
      return integer_binary(runtime, IntegerOperation::multiply, a, b);
    case BinaryOperator::divide:
      return integer_divide(runtime, a, b);
    case BinaryOperator::floor_divide:
      return integer_binary(runtime, IntegerOperation::floor_divide, a, b);
    case BinaryOperator::modulo:
      return integer_binary(runtime, IntegerOperation::modulo, a, b);
    case BinaryOperator::power:
      if (integer_sign(b) < 0) return float_binary(runtime, operation, a, b);
      return integer_power(runtime, a, b);
  }
  return Value();
}

Value concatenate(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_string() && b.is_string()) {
    const bool markup = a.is_markup() || b.is_markup();
    const auto text = [markup](const Value& value) {
      return markup && !value.is_markup() ? escape_html(value.as_string()) : value.as_string();
    };
    return runtime.string(text(a) + text(b), markup);
  }
  const bool same_sequence = a.is_sequence() && a.kind() == b.kind();
  if (!same_sequence) {
    if (a.is_sequence() || a.is_string()) {
      return runtime.fail(ErrorKind::type_error,
                          fmt::format("can only concatenate {} (not \"{}\") to {}", type_name(a),
                                      type_name(b), type_name(a)));
    }
    return fail_operands(runtime, BinaryOperator::add, a, b);
  }
  std::vector<Value> items = a.as_sequence().items;
  const auto& more = b.as_sequence().items;
  if (!runtime.step(items.size() + more.size())) return Value();
  items.insert(items.end(), more.begin(), more.end());
  return a.is(ValueKind::list) ? runtime.list(std::move(items)) : runtime.tuple(std::move(items));
}

bool fits(Runtime& runtime, size_t size, int64_t count) {
  const auto limit = runtime.limits().max_made_bytes;
  if (size != 0 && static_cast<uint64_t>(count) > limit / size) {
    runtime.fail(ErrorKind::limit_error, "template makes too much data");
    return false;
  }
  return runtime.step(1 + size * static_cast<size_t>(count) / 16);
}

Value repeat(Runtime& runtime, const Value& value, const Value& times) {
  if (times.is(ValueKind::big_integer)) {
    return runtime.fail(ErrorKind::overflow_error, "cannot fit 'int' into an index-sized integer");
  }
  const int64_t count = std::max<int64_t>(times.as_integer(), 0);
  if (value.is_string()) {
    const std::string& text = value.as_string();
    if (!fits(runtime, text.size(), count)) return Value();
    std::string out;
    for (int64_t i = 0; i < count && !text.empty(); ++i) out += text;
    return runtime.string(std::move(out), value.is_markup());
  }
  const auto& items = value.as_sequence().items;
  if (!fits(runtime, items.size() * sizeof(Value), count)) return Value();
  std::vector<Value> out;
  for (int64_t i = 0; i < count && !items.empty(); ++i) {
    out.insert(out.end(), items.begin(), items.end());
  }
  return value.is(ValueKind::list) ? runtime.list(std::move(out)) : runtime.tuple(std::move(out));
}

Value multiply(Runtime& runtime, const Value& a, const Value& b) {
  const bool a_repeats = a.is_sequence() || a.is_string();
  const bool b_repeats = b.is_sequence() || b.is_string();
  if (a_repeats && b.is_integral()) return repeat(runtime, a, b);
  if (b_repeats && a.is_integral()) return repeat(runtime, b, a);
  if (a_repeats || b_repeats) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("can't multiply sequence by non-int of type '{}'",
                                    type_name(a_repeats ? b : a)));
  }
  return fail_operands(runtime, BinaryOperator::multiply, a, b);
}

}  // namespace

Value binary(Runtime& runtime, BinaryOperator operation, const Value& a, const Value& b) {
  if (!runtime.step()) return Value();
  const bool formats = operation == BinaryOperator::modulo && a.is_string();
  if (formats) return percent_format(runtime, a, b);
  if (a.is_undefined()) return runtime.fail_undefined(a);
  if (b.is_undefined()) return runtime.fail_undefined(b);
  if (a.is_number() && b.is_number()) return number_binary(runtime, operation, a, b);
  if (operation == BinaryOperator::add) return concatenate(runtime, a, b);
  if (operation == BinaryOperator::multiply) return multiply(runtime, a, b);
  return fail_operands(runtime, operation, a, b);
}

Value negate(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return runtime.fail_undefined(value);
  if (value.is(ValueKind::floating)) return Value::floating(-value.as_floating());
  if (value.is_integral()) return integer_negate(runtime, value);
  return runtime.fail(ErrorKind::type_error,
                      fmt::format("bad operand type for unary -: '{}'", type_name(value)));
}

Value plus(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return runtime.fail_undefined(value);
  if (value.is(ValueKind::boolean)) return Value::integer(value.as_integer());
  if (value.is_number()) return value;
  return runtime.fail(ErrorKind::type_error,
                      fmt::format("bad operand type for unary +: '{}'", type_name(value)));
}

double number_argument(Runtime& runtime, const Value& value) {
  if (value.is_number()) return to_double(runtime, value);
  if (value.is_undefined()) {
    runtime.fail_undefined(value);
  } else {
    runtime.fail(ErrorKind::type_error,
                 fmt::format("must be real number, not {}", type_name(value)));
  }
  return 0;
}

}  // namespace nibble::tokenizer::jinja
