// Names and texts of Jinja failures.
#include "tokenizer/jinja/error.h"

#include <fmt/format.h>

namespace nibble::tokenizer::jinja {

const char* error_kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::template_error:
      return "TemplateError";
    case ErrorKind::syntax_error:
      return "TemplateSyntaxError";
    case ErrorKind::assertion_error:
      return "TemplateAssertionError";
    case ErrorKind::runtime_error:
      return "TemplateRuntimeError";
    case ErrorKind::undefined_error:
      return "UndefinedError";
    case ErrorKind::security_error:
      return "SecurityError";
    case ErrorKind::filter_argument_error:
      return "FilterArgumentError";
    case ErrorKind::type_error:
      return "TypeError";
    case ErrorKind::value_error:
      return "ValueError";
    case ErrorKind::key_error:
      return "KeyError";
    case ErrorKind::zero_division_error:
      return "ZeroDivisionError";
    case ErrorKind::overflow_error:
      return "OverflowError";
    case ErrorKind::recursion_error:
      return "RecursionError";
    case ErrorKind::limit_error:
      return "LimitError";
    case ErrorKind::unsupported_error:
      return "UnsupportedError";
  }
  return "Error";
}

std::string JinjaError::to_string() const {
  if (kind == ErrorKind::template_error) return message;
  return fmt::format("{}: {} (line {}, column {})", error_kind_name(kind), message, position.line,
                     position.column);
}

}  // namespace nibble::tokenizer::jinja
