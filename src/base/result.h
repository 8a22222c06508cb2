// Result<T>: a value or an Error, for everything that depends on the outside (files, network,
// input).
//
// Our own bugs abort through base/check.h instead. We do not throw. Anything that can fail to be
// built has a static open/create/load returning Result. Use the two macros below as plain
// statements, one per line.
#pragma once

#include "base/check.h"

#include <string>
#include <utility>
#include <variant>

namespace nibble {

/// What went wrong, coarse enough to map to an HTTP status (server) and an exit code (cli).
enum class ErrorCode {
  invalid_argument,
  not_found,
  corrupt,
  unsupported,
  exhausted,
  io,
  network,
  permission,
  cancelled,
  internal,
};

/// A failure as data. The message names the operation, the value found, the value wanted and where.
struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;

  /// The same error with context in front: "while reading model.safetensors: header too long".
  [[nodiscard]] Error with(const std::string& context) const {
    return Error{code, context + ": " + message};
  }
};

/// Holds a T or an Error. value() on an error aborts: check ok() first, or use the macros.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error)
      : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return state_.index() == 0; }
  const Error& error() const {
    NIBBLE_CHECK(!ok(), "error() of a Result that holds a value");
    return *std::get_if<1>(&state_);
  }
  T& value() & {
    NIBBLE_CHECK(ok(), "value() of a failed Result", failure_text());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    NIBBLE_CHECK(ok(), "value() of a failed Result", failure_text());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    NIBBLE_CHECK(ok(), "value() of a failed Result", failure_text());
    return std::move(*std::get_if<0>(&state_));
  }

 private:
  std::string failure_text() const {
    const Error* error = std::get_if<1>(&state_);
    return error == nullptr ? std::string() : error->message;
  }

  std::variant<T, Error> state_;
};

/// Success, or an Error.
template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : failed_(true), error_(std::move(error)) {}  // NOLINT: implicit by design

  bool ok() const { return !failed_; }
  const Error& error() const {
    NIBBLE_CHECK(failed_, "error() of a successful Result");
    return error_;
  }

 private:
  bool failed_ = false;
  Error error_;
};

}  // namespace nibble

#define NIBBLE_CONCAT_INNER(a, b) a##b
#define NIBBLE_CONCAT(a, b) NIBBLE_CONCAT_INNER(a, b)

/// NIBBLE_ASSIGN_OR_RETURN(auto x, f()): declares x, or returns f()'s error from this function.
#define NIBBLE_ASSIGN_OR_RETURN(declaration, expression)       \
  auto NIBBLE_CONCAT(nibble_result_, __LINE__) = (expression); \
  if (!NIBBLE_CONCAT(nibble_result_, __LINE__).ok())           \
    return NIBBLE_CONCAT(nibble_result_, __LINE__).error();    \
  declaration = std::move(NIBBLE_CONCAT(nibble_result_, __LINE__)).value()

/// NIBBLE_RETURN_IF_ERROR(f()): returns f()'s error from this function.
#define NIBBLE_RETURN_IF_ERROR(expression)                 \
  do {                                                     \
    auto nibble_status = (expression);                     \
    if (!nibble_status.ok()) return nibble_status.error(); \
  } while (false)
