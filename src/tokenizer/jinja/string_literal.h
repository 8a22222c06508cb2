// Escapes in string literals, as Python's unicode_escape codec resolves them.
#pragma once

#include <string>
#include <string_view>

namespace nibble::tokenizer::jinja {

struct LiteralResult {
  std::string text;
  std::string problem;  // empty when all went well
};

/// `body` is the literal without its quotes. Refused: truncated escapes, \N{...}, lone surrogates.
LiteralResult resolve_escapes(std::string_view body);

}  // namespace nibble::tokenizer::jinja
