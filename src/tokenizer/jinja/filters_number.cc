// Filters that make numbers, and the text of sizes.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/format_spec.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/number_text.h"
#include "tokenizer/jinja/operators.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>

namespace nibble::tokenizer::jinja {
namespace {

Value filter_abs(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "abs", arguments)) return Value();
  if (input.is(ValueKind::floating)) return Value::floating(std::abs(input.as_floating()));
  if (input.is_integral()) {
    return integer_sign(input) < 0 ? integer_negate(runtime, input) : plus(runtime, input);
  }
  return runtime.fail(ErrorKind::type_error,
                      fmt::format("bad operand type for abs(): '{}'", type_name(input)));
}

// The fallback of |int: int(float(value)), then the default.
Value int_through_float(Runtime& runtime, const Value& input, const Value& fallback) {
  double number = 0;
  if (input.is_string()) {
    const auto parsed = parse_float_text(input.as_string());
    if (!parsed.has_value()) return fallback;
    number = *parsed;
  } else if (input.is(ValueKind::floating)) {
    number = input.as_floating();
  } else {
    return fallback;
  }
  return std::isfinite(number) ? integer_from_double(runtime, number) : fallback;
}

Value filter_int(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "int", arguments, {"default", "base"});
  const int64_t base = integer_argument(runtime, bound[1], 10);
  if (runtime.failed()) return Value();
  const Value fallback = bound[0].is_missing() ? Value::integer(0) : bound[0];
  if (input.is_undefined()) return runtime.fail_undefined(input);
  if (input.is_integral()) return plus(runtime, input);
  if (input.is_string()) {
    const Value parsed = parse_integer_text(runtime, input.as_string(), base);
    if (!parsed.is_missing() || runtime.failed()) return parsed;
  } else if (input.is(ValueKind::floating) && std::isinf(input.as_floating())) {
    return runtime.fail(ErrorKind::overflow_error, "cannot convert float infinity to integer");
  }
  return int_through_float(runtime, input, fallback);
}

Value filter_float(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "float", arguments, {"default"});
  const Value fallback = bound[0].is_missing() ? Value::floating(0.0) : bound[0];
  if (input.is_undefined()) return runtime.fail_undefined(input);
  if (input.is_number()) return Value::floating(number_argument(runtime, input));
  if (!input.is_string()) return fallback;
  const auto parsed = parse_float_text(input.as_string());
  return parsed.has_value() ? Value::floating(*parsed) : fallback;
}

// Half-even on the decimal digits of the exact value, as CPython rounds.
Value round_float(Runtime& runtime, double value, int64_t precision) {
  if (!std::isfinite(value) || precision > 330) return Value::floating(value);
  if (precision < -330) return Value::floating(std::copysign(0.0, value));
  if (precision >= 0) {
    FormatSpec spec;
    spec.type = 'f';
    spec.precision = precision;
    return Value::floating(std::strtod(format_float(runtime, value, spec).c_str(), nullptr));
  }
  const double scale = std::pow(10.0, static_cast<double>(-precision));
  return Value::floating(std::nearbyint(value / scale) * scale);
}

Value round_integer(Runtime& runtime, const Value& value, int64_t precision) {
  if (precision >= 0) return plus(runtime, value);
  if (precision < -4000) return Value::integer(0);
  const Value scale = integer_power(runtime, Value::integer(10), Value::integer(-precision));
  if (runtime.failed()) return Value();
  const Value rest = integer_binary(runtime, IntegerOperation::modulo, value, scale);
  const Value down = integer_binary(runtime, IntegerOperation::subtract, value, rest);
  const Value doubled = integer_binary(runtime, IntegerOperation::add, rest, rest);
  const int half = integer_compare(doubled, scale);
  const Value quotient = integer_binary(runtime, IntegerOperation::floor_divide, down, scale);
  const Value parity =
      integer_binary(runtime, IntegerOperation::modulo, quotient, Value::integer(2));
  const bool goes_up = half > 0 || (half == 0 && integer_sign(parity) != 0);
  return goes_up ? integer_binary(runtime, IntegerOperation::add, down, scale) : down;
}

Value filter_round(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "round", arguments, {"precision", "method"});
  const int64_t precision = integer_argument(runtime, bound[0], 0);
  const std::string method = bound[1].is_missing() ? "common" : text_argument(runtime, bound[1]);
  if (method != "common" && method != "ceil" && method != "floor") {
    return runtime.fail(ErrorKind::filter_argument_error, "method must be common, ceil or floor");
  }
  if (!input.is_number()) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("type {} doesn't define __round__ method", type_name(input)));
  }
  if (runtime.failed()) return Value();
  if (method == "common") {
    return input.is(ValueKind::floating) ? round_float(runtime, input.as_floating(), precision)
                                         : round_integer(runtime, input, precision);
  }
  const Value scale =
      binary(runtime, BinaryOperator::power, Value::integer(10), Value::integer(precision));
  const Value scaled = binary(runtime, BinaryOperator::multiply, input, scale);
  Value whole = scaled;
  if (scaled.is(ValueKind::floating) && !runtime.failed()) {
    if (!std::isfinite(scaled.as_floating())) {
      return runtime.fail(ErrorKind::overflow_error, "cannot convert float infinity to integer");
    }
    whole = integer_from_double(runtime, method == "ceil" ? std::ceil(scaled.as_floating())
                                                          : std::floor(scaled.as_floating()));
  }
  return runtime.failed() ? Value() : binary(runtime, BinaryOperator::divide, whole, scale);
}

Value filter_filesizeformat(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "filesizeformat", arguments, {"binary"});
  const bool is_binary = flag_argument(runtime, bound[0], false);
  double bytes = 0;
  if (input.is_string()) {
    const auto parsed = parse_float_text(input.as_string());
    if (!parsed.has_value()) {
      return runtime.fail(ErrorKind::value_error, "could not convert string to float");
    }
    bytes = *parsed;
  } else {
    bytes = number_argument(runtime, input);
  }
  if (runtime.failed()) return Value();
  const double base = is_binary ? 1024 : 1000;
  if (bytes == 1) return runtime.string("1 Byte");
  if (bytes < base) return runtime.string(fmt::format("{:.0f} Bytes", std::trunc(bytes)));
  constexpr char kPrefixes[] = "kMGTPEZY";
  double unit = base;
  for (size_t i = 0;; ++i) {
    unit *= base;
    if (bytes >= unit && i < 7) continue;
    const char prefix = is_binary && i == 0 ? 'K' : kPrefixes[i];
    return runtime.string(
        fmt::format("{:.1f} {}{}B", base * bytes / unit, prefix, is_binary ? "i" : ""));
  }
}

constexpr FilterEntry kFilters[] = {
    {"abs", filter_abs},     {"filesizeformat", filter_filesizeformat},
    {"float", filter_float}, {"int", filter_int},
    {"round", filter_round},
};

}  // namespace

std::span<const FilterEntry> number_filters() {
  return kFilters;
}

}  // namespace nibble::tokenizer::jinja
