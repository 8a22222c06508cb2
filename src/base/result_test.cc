// Tests for Result<T>: what it holds, what the macros return early, context on errors.
#include "base/result.h"

#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

namespace nibble {
namespace {

Result<int> half(int number) {
  if (number % 2 != 0) {
    return Error{ErrorCode::invalid_argument, "odd: " + std::to_string(number)};
  }
  return number / 2;
}

Result<int> quarter(int number) {
  NIBBLE_ASSIGN_OR_RETURN(const int first, half(number));
  NIBBLE_ASSIGN_OR_RETURN(const int second, half(first));
  return second;
}

Result<void> require_even(int number, bool& reached_end) {
  NIBBLE_RETURN_IF_ERROR(half(number));
  reached_end = true;
  return {};
}

TEST(Result, HoldsValueOrError) {
  const Result<int> good = half(8);
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good.value(), 4);
  const Result<int> bad = half(7);
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(bad.error().message, "odd: 7");
}

TEST(Result, AssignOrReturnStopsAtTheFirstError) {
  EXPECT_EQ(quarter(12).value(), 3);
  EXPECT_EQ(quarter(6).error().message, "odd: 3");
  EXPECT_EQ(quarter(5).error().message, "odd: 5");
}

TEST(Result, ReturnIfErrorStopsOnlyOnErrors) {
  bool reached_end = false;
  EXPECT_FALSE(require_even(3, reached_end).ok());
  EXPECT_FALSE(reached_end);
  EXPECT_TRUE(require_even(4, reached_end).ok());
  EXPECT_TRUE(reached_end);
}

TEST(Result, MovesMoveOnlyValues) {
  Result<std::unique_ptr<int>> made(std::make_unique<int>(5));
  const std::unique_ptr<int> taken = std::move(made).value();
  EXPECT_EQ(*taken, 5);
}

TEST(Result, ContextGoesInFrontAndKeepsTheCode) {
  const Error error = Error{ErrorCode::corrupt, "header too long"}.with("while reading a.bin");
  EXPECT_EQ(error.code, ErrorCode::corrupt);
  EXPECT_EQ(error.message, "while reading a.bin: header too long");
}

TEST(ResultDeathTest, ValueOfAFailureAbortsWithItsMessage) {
  const Result<int> bad = half(7);
  EXPECT_DEATH((void)bad.value(), "value\\(\\) of a failed Result.*odd: 7");
  EXPECT_DEATH((void)Result<int>(1).error(), "error\\(\\) of a Result that holds a value");
  EXPECT_DEATH((void)Result<void>().error(), "error\\(\\) of a successful Result");
}

}  // namespace
}  // namespace nibble
