// Numbers and texts laid out by flags, width and precision: the part both kinds of formatting
// share.
#pragma once

#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::tokenizer::jinja {

/// A conversion such as "%-8.3f" or "{:>8.3f}".
struct FormatSpec {
  std::string fill = " ";
  char align = 0;  // '<' '>' '^' '=', 0: the type's default
  char sign = '-';
  bool alternate = false;  // '#'
  int64_t width = 0;
  char grouping = 0;  // ',' or '_'
  int64_t precision = -1;
  char type = 0;
};

/// Widths and precisions above this are refused.
inline constexpr int64_t kMaxFormatWidth = 100000;

/// Pads `text` (code points count) as the spec says; `default_align` where it does not.
std::string pad_text(std::string_view text, const FormatSpec& spec, char default_align);

/// An integer with type d, b, o, x, X, c or n; fails with OverflowError for a bad character code.
std::string format_integer(Runtime& runtime, const Value& value, const FormatSpec& spec);

/// A float with type e, E, f, F, g, G, % or none (shortest digits).
std::string format_float(Runtime& runtime, double value, const FormatSpec& spec);

}  // namespace nibble::tokenizer::jinja
