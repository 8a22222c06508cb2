// Python integers: 64 bits while they fit, any size (up to a limit) when they do not.
//
// Operands are integers, booleans or big integers; results are normalised to the smallest kind. The
// multiprecision library stays inside integer.cc.
#pragma once

#include "tokenizer/jinja/value.h"

namespace nibble::tokenizer::jinja {

enum class IntegerOperation { add, subtract, multiply, floor_divide, modulo };

/// Fails with ZeroDivisionError, or LimitError beyond kMaxIntegerBits.
Value integer_binary(Runtime& runtime, IntegerOperation operation, const Value& a, const Value& b);

/// exponent >= 0.
Value integer_power(Runtime& runtime, const Value& base, const Value& exponent);
Value integer_negate(Runtime& runtime, const Value& value);

/// Digits only (no sign, no underscores), all below `base` (2, 8, 10 or 16, or any up to 36).
Value integer_from_digits(Runtime& runtime, std::string_view digits, int base);

/// Truncates toward zero; the value must be finite.
Value integer_from_double(Runtime& runtime, double value);

/// Steps that one pass over the digits is worth; work grows with the product of two costs.
uint64_t integer_cost(const Value& value);

/// Infinite when out of range.
double integer_to_double(const Value& value);

/// a / b, rounded once; infinite when out of range. b is not zero.
double integer_divide_exactly(const Value& a, const Value& b);

/// Decimal, or in base 2, 8, 16 (lower case, without prefix), with a leading minus.
std::string integer_to_string(const Value& value, int base = 10);

/// -1, 0, 1.
int integer_compare(const Value& a, const Value& b);
int integer_compare(const Value& a, double b);
int integer_sign(const Value& value);
uint64_t integer_hash(const Value& value);

/// Python's repr of a float: shortest digits that read back, exponent outside 1e-4 .. 1e16.
std::string float_repr(double value);

}  // namespace nibble::tokenizer::jinja
