// Jinja failures as data: what Python would have raised, and where in the template.
//
// The interpreter never throws. A failure is stored once (the first one wins) and every function
// above it returns early, so a JinjaError is always the innermost cause.
#pragma once

#include <string>

namespace nibble::tokenizer::jinja {

/// 1-based line and column (in code points) in the template's source.
struct Position {
  int line = 0;
  int column = 0;
};

/// The Python exception the reference environment raises, plus two of our own at the end.
enum class ErrorKind {
  template_error,  // raise_exception(): the template's own words, shown to the user as they are
  syntax_error,
  assertion_error,
  runtime_error,
  undefined_error,
  security_error,
  filter_argument_error,
  type_error,
  value_error,
  key_error,
  zero_division_error,
  overflow_error,
  recursion_error,
  limit_error,  // ours: too many steps, too much output or memory
  unsupported_error,  // ours: part of the language that this interpreter does not have
};

/// The exception's class name as Python prints it ("UndefinedError"); ours have names of the same
/// form.
const char* error_kind_name(ErrorKind kind);

struct JinjaError {
  ErrorKind kind = ErrorKind::template_error;
  std::string message;
  Position position;

  /// "UndefinedError: 'x' is undefined (line 3, column 7)"; only the words for raise_exception().
  std::string to_string() const;
};

}  // namespace nibble::tokenizer::jinja
