// Tests of the lexer: tokens, positions and the white-space rules around tags.
#include "tokenizer/jinja/lexer.h"

#include <gtest/gtest.h>

namespace nibble::tokenizer::jinja {
namespace {

// Data between [], tokens by their symbol or text.
std::string summary(std::string_view source) {
  const LexResult result = lex_template(source);
  if (result.error) return "error: " + result.error->message;
  std::string out;
  for (const Token& token : result.tokens) {
    if (token.type == TokenType::end_of_template) break;
    if (!out.empty()) out += ' ';
    switch (token.type) {
      case TokenType::data:
        out += "[" + token.text + "]";
        break;
      case TokenType::variable_begin:
        out += "{{";
        break;
      case TokenType::variable_end:
        out += "}}";
        break;
      case TokenType::block_begin:
        out += "{%";
        break;
      case TokenType::block_end:
        out += "%}";
        break;
      case TokenType::string:
        out += "'" + token.text + "'";
        break;
      default:
        out += token.text;
    }
  }
  return out;
}

TEST(Lexer, TokensOfExpressions) {
  EXPECT_EQ(summary("{{ a.b[1:2]|f(x=1) }}"), "{{ a . b [ 1 : 2 ] | f ( x = 1 ) }}");
  EXPECT_EQ(summary("{{ 1//2 ** 3 != 4 <= 5 }}"), "{{ 1 // 2 ** 3 != 4 <= 5 }}");
  EXPECT_EQ(summary("{{ 1_000 0x1F 1.5e-3 2. }}"), "{{ 1000 0x1F 1.5e-3 2 . }}");
  EXPECT_EQ(summary("{{ x.0.1 }}"), "{{ x . 0 . 1 }}");
  EXPECT_EQ(summary("{{ {'a': {}} }}"), "{{ { 'a' : { } } }}");
  EXPECT_EQ(summary("{{ '\\n\\x41\\u00e9\\q' }}"), "{{ '\nA\xC3\xA9\\q' }}");
}

TEST(Lexer, BlocksTrimTheirLines) {
  EXPECT_EQ(summary("a\n  {% x %}\nb"), "[a\n] {% x %} [b]");
  EXPECT_EQ(summary("a {% x %}\n\nb"), "[a ] {% x %} [\nb]");
  EXPECT_EQ(summary("  {{ x }}\n"), "[  ] {{ x }}");
  EXPECT_EQ(summary("a \n {%- x -%} \n b"), "[a] {% x %} [b]");
  EXPECT_EQ(summary("a\n  {%+ x +%}\nb"), "[a\n  ] {% x %} [\nb]");
  EXPECT_EQ(summary("a\n  {# c #}\nb"), "[a\n] [b]");
}

TEST(Lexer, RawTextIsData) {
  EXPECT_EQ(summary("{% raw %}{{ x }}{% y %}{% endraw %}"), "[{{ x }}{% y %}]");
  EXPECT_EQ(summary("{%- raw -%}  a  {%- endraw -%}  b"), "[a] [b]");
}

TEST(Lexer, NewlinesAreNormalised) {
  EXPECT_EQ(summary("a\r\nb\rc\n"), "[a\nb\nc]");
  EXPECT_EQ(summary("\n"), "");
}

TEST(Lexer, Errors) {
  EXPECT_EQ(summary("{# x"), "error: Missing end of comment tag");
  EXPECT_EQ(summary("{% raw %} x"), "error: Missing end of raw directive");
  EXPECT_EQ(summary("{{ (] }}"), "error: unexpected ']', expected ')'");
  EXPECT_EQ(summary("{{ ) }}"), "error: unexpected ')'");
  EXPECT_EQ(summary("{{ '\\ud800' }}"),
            "error: lone surrogates in string literals are not supported");
  EXPECT_EQ(summary("{{ '\\x4' }}"), "error: truncated \\x escape");
}

TEST(Lexer, PositionsCountCodePoints) {
  const LexResult result = lex_template("\xC3\xA4\n\xC3\xA4\xC3\xB6 {{ x }}");
  ASSERT_EQ(result.tokens.size(), 5u);
  EXPECT_EQ(result.tokens[2].text, "x");
  EXPECT_EQ(result.tokens[2].position.line, 2);
  EXPECT_EQ(result.tokens[2].position.column, 7);
}

}  // namespace
}  // namespace nibble::tokenizer::jinja
