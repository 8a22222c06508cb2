// Numbers read from text the way int() and float() do: blanks around, sign, underscores, any
// decimal digits.
#pragma once

#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <optional>
#include <string_view>

namespace nibble::tokenizer::jinja {

/// int(text, base); missing when Python would raise ValueError. base 0 or 2..36 (0: by prefix).
Value parse_integer_text(Runtime& runtime, std::string_view text, int64_t base);

/// float(text); nothing when Python would raise ValueError.
std::optional<double> parse_float_text(std::string_view text);

}  // namespace nibble::tokenizer::jinja
