// Tests of integers at the border between 64 bits and more, and of float texts.
#include "tokenizer/jinja/integer.h"

#include "tokenizer/jinja/runtime.h"

#include <gtest/gtest.h>

#include <limits>

namespace nibble::tokenizer::jinja {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();

std::string compute(IntegerOperation operation, int64_t a, int64_t b) {
  Runtime runtime{Limits{}};
  const Value result = integer_binary(runtime, operation, Value::integer(a), Value::integer(b));
  return runtime.failed() ? "error" : integer_to_string(result);
}

TEST(Integer, GrowsBeyond64Bits) {
  EXPECT_EQ(compute(IntegerOperation::add, kMax, 1), "9223372036854775808");
  EXPECT_EQ(compute(IntegerOperation::subtract, kMin, 1), "-9223372036854775809");
  EXPECT_EQ(compute(IntegerOperation::multiply, kMin, -1), "9223372036854775808");
  EXPECT_EQ(compute(IntegerOperation::floor_divide, kMin, -1), "9223372036854775808");
  EXPECT_EQ(compute(IntegerOperation::modulo, kMin, -1), "0");
}

TEST(Integer, ComesBackTo64Bits) {
  Runtime runtime{Limits{}};
  const Value big =
      integer_binary(runtime, IntegerOperation::add, Value::integer(kMax), Value::integer(1));
  ASSERT_TRUE(big.is(ValueKind::big_integer));
  const Value back = integer_binary(runtime, IntegerOperation::subtract, big, Value::integer(1));
  ASSERT_TRUE(back.is(ValueKind::integer));
  EXPECT_EQ(back.as_integer(), kMax);
}

TEST(Integer, DividesTowardMinusInfinity) {
  EXPECT_EQ(compute(IntegerOperation::floor_divide, -7, 2), "-4");
  EXPECT_EQ(compute(IntegerOperation::modulo, -7, 2), "1");
  EXPECT_EQ(compute(IntegerOperation::modulo, 7, -2), "-1");
  EXPECT_EQ(compute(IntegerOperation::modulo, 7, 0), "error");
}

TEST(Integer, RefusesGiants) {
  Runtime runtime{Limits{}};
  integer_power(runtime, Value::integer(10), Value::integer(1'000'000));
  ASSERT_TRUE(runtime.failed());
  EXPECT_EQ(runtime.error().kind, ErrorKind::limit_error);
}

TEST(Integer, BecomesADoubleOfAnySize) {
  Runtime runtime{Limits{}};
  const Value ten = Value::integer(10);
  EXPECT_EQ(integer_to_double(integer_power(runtime, ten, Value::integer(25))), 1e25);
  EXPECT_EQ(integer_to_double(integer_power(runtime, ten, Value::integer(308))), 1e308);
  const Value huge = integer_power(runtime, ten, Value::integer(400));
  EXPECT_EQ(integer_to_double(huge), std::numeric_limits<double>::infinity());
  EXPECT_EQ(integer_divide_exactly(huge, huge), 1.0);
}

TEST(Integer, ComparesWithFloatsExactly) {
  // 2^53 + 1 is no double: converting first would call them equal.
  EXPECT_EQ(integer_compare(Value::integer(9007199254740993), 9007199254740992.0), 1);
  EXPECT_EQ(integer_compare(Value::integer(1), 1.5), -1);
  EXPECT_EQ(integer_compare(Value::integer(1), -std::numeric_limits<double>::infinity()), 1);
}

TEST(Float, PrintsAsPythonDoes) {
  EXPECT_EQ(float_repr(0.1), "0.1");
  EXPECT_EQ(float_repr(1e16), "1e+16");
  EXPECT_EQ(float_repr(1e15), "1000000000000000.0");
  EXPECT_EQ(float_repr(-0.0), "-0.0");
  EXPECT_EQ(float_repr(0.0001), "0.0001");
  EXPECT_EQ(float_repr(0.00001), "1e-05");
  EXPECT_EQ(float_repr(123.456), "123.456");
  EXPECT_EQ(float_repr(5e-324), "5e-324");
}

}  // namespace
}  // namespace nibble::tokenizer::jinja
