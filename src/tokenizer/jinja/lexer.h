// Splits a template into data and tokens, with the white-space rules of trim_blocks and
// lstrip_blocks.
//
// The rules are those of the reference lexer (jinja2 3.1): one newline is dropped after a block or
// comment, blanks are dropped between a line's start and a block or comment, '-' strips everything,
// '+' keeps everything.
#pragma once

#include "tokenizer/jinja/error.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer::jinja {

enum class TokenType {
  end_of_template,
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  floating,
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  tilde,
  left_bracket,
  right_bracket,
  left_parenthesis,
  right_parenthesis,
  left_brace,
  right_brace,
  equal,
  not_equal,
  greater,
  greater_equal,
  less,
  less_equal,
  assign,
  dot,
  colon,
  pipe,
  comma,
  semicolon,
};

struct Token {
  TokenType type = TokenType::end_of_template;
  std::string text;  // data, names, digits without underscores; strings with escapes resolved
  Position position;
};

/// What error messages call a token: its text for names, its symbol or a description otherwise.
std::string describe_token(const Token& token);
std::string describe_token_type(TokenType type);

struct LexResult {
  std::vector<Token> tokens;  // the last one is end_of_template
  std::optional<JinjaError> error;
};

/// Line ends are normalised to \n first and one trailing newline is dropped. Positions are those of
/// the source (a \r\n counts once).
LexResult lex_template(std::string_view source);

}  // namespace nibble::tokenizer::jinja
