// The template lexer: a data state and three tag states, like the regular expressions of the
// reference.
#include "tokenizer/jinja/lexer.h"

#include "base/utf8.h"
#include "tokenizer/jinja/string_literal.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

struct OperatorName {
  std::string_view symbol;
  TokenType type;
};

// Two-character operators first.
constexpr OperatorName kOperators[] = {
    {"//", TokenType::floor_divide},
    {"**", TokenType::power},
    {"==", TokenType::equal},
    {"!=", TokenType::not_equal},
    {">=", TokenType::greater_equal},
    {"<=", TokenType::less_equal},
    {"+", TokenType::add},
    {"-", TokenType::subtract},
    {"*", TokenType::multiply},
    {"/", TokenType::divide},
    {"%", TokenType::modulo},
    {"~", TokenType::tilde},
    {"[", TokenType::left_bracket},
    {"]", TokenType::right_bracket},
    {"(", TokenType::left_parenthesis},
    {")", TokenType::right_parenthesis},
    {"{", TokenType::left_brace},
    {"}", TokenType::right_brace},
    {">", TokenType::greater},
    {"<", TokenType::less},
    {"=", TokenType::assign},
    {".", TokenType::dot},
    {":", TokenType::colon},
    {"|", TokenType::pipe},
    {",", TokenType::comma},
    {";", TokenType::semicolon},
};

std::string normalise_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out.push_back(source[i]);
      continue;
    }
    out.push_back('\n');
    if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

bool is_digit_character(char c) {
  return c >= '0' && c <= '9';
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalise_newlines(source)) {}

  LexResult run() {
    while (!result_.error && at_ < source_.size()) lex_data();
    add(TokenType::end_of_template, "", source_.size());
    return std::move(result_);
  }

 private:
  void fail(size_t offset, std::string message, ErrorKind kind = ErrorKind::syntax_error) {
    if (!result_.error) result_.error = JinjaError{kind, std::move(message), position(offset)};
    at_ = source_.size();
  }

  // Offsets are asked for in rising order except in errors, so counting restarts only then.
  Position position(size_t offset) {
    if (offset < counted_) {
      counted_ = 0;
      counted_position_ = Position{1, 1};
    }
    for (; counted_ < offset; ++counted_) {
      if (source_[counted_] == '\n') {
        ++counted_position_.line;
        counted_position_.column = 1;
      } else if ((static_cast<unsigned char>(source_[counted_]) & 0xC0) != 0x80) {
        ++counted_position_.column;
      }
    }
    return counted_position_;
  }

  void add(TokenType type, std::string text, size_t offset) {
    result_.tokens.push_back(Token{type, std::move(text), position(offset)});
  }

  bool at_text(std::string_view wanted) const {
    return std::string_view(source_).substr(at_, wanted.size()) == wanted;
  }

  void skip_space() {
    const std::string_view rest = std::string_view(source_).substr(at_);
    at_ = source_.size() - strip(rest, Side::left).size();
  }

  void add_data(std::string_view text, size_t offset) {
    if (!text.empty()) add(TokenType::data, std::string(text), offset);
  }

  // Text up to the next tag, its end trimmed as the tag asks; then the tag.
  void lex_data() {
    size_t open = at_;
    while (true) {
      open = source_.find('{', open);
      if (open == std::string::npos || open + 1 >= source_.size()) {
        add_data(std::string_view(source_).substr(at_), at_);
        at_ = source_.size();
        return;
      }
      const char next = source_[open + 1];
      if (next == '%' || next == '{' || next == '#') break;
      ++open;
    }
    const char kind = source_[open + 1];
    const size_t after = open + 2;
    const char sign = after < source_.size() && (source_[after] == '-' || source_[after] == '+')
                          ? source_[after]
                          : '\0';
    add_data(trimmed_text(at_, open, sign, kind != '{'), at_);
    at_ = after + (sign == '\0' ? 0 : 1);
    line_starting_ = false;
    if (kind == '#') {
      lex_comment(open);
    } else if (kind == '{') {
      add(TokenType::variable_begin, "", open);
      lex_tag(TokenType::variable_end);
    } else if (!lex_raw(open)) {
      add(TokenType::block_begin, "", open);
      lex_tag(TokenType::block_end);
    }
    line_starting_ = at_ > 0 && source_[at_ - 1] == '\n';
  }

  std::string_view trimmed_text(size_t start, size_t end, char sign, bool strips_blanks) const {
    const auto text = std::string_view(source_).substr(start, end - start);
    if (sign == '-') return strip(text, Side::right);
    if (sign == '+' || !strips_blanks) return text;
    const size_t newline = text.rfind('\n');
    const size_t line = newline == std::string_view::npos ? 0 : newline + 1;
    const bool at_line_start = line > 0 || line_starting_;
    const bool blank = strip(text.substr(line), Side::left).empty();
    return at_line_start && blank ? text.substr(0, line) : text;
  }

  // After "-#}" or "-%}": all white space goes; after "#}" or "%}" one newline; after '+' none.
  void finish_tag(char sign, bool trims_newline) {
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && trims_newline && at_ < source_.size() && source_[at_] == '\n') {
      ++at_;
    }
  }

  void lex_comment(size_t open) {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) return fail(open, "Missing end of comment tag");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    at_ = end + 2;
    finish_tag(sign, true);
  }

  // {% raw %} ... {% endraw %}; false, with nothing consumed, when the block is another one.
  bool lex_raw(size_t open) {
    const size_t saved = at_;
    skip_space();
    if (!at_text("raw")) {
      at_ = saved;
      return false;
    }
    at_ += 3;
    skip_space();
    if (!at_text("%}") && !at_text("-%}")) {
      at_ = saved;
      return false;
    }
    const bool strips = at_text("-%}");
    at_ += strips ? 3 : 2;
    if (strips) skip_space();
    line_starting_ = source_[at_ - 1] == '\n';
    const size_t start = at_;
    for (size_t end = source_.find("{%", at_); end != std::string::npos;
         end = source_.find("{%", end + 2)) {
      at_ = end + 2;
      const char sign = at_ < source_.size() && (source_[at_] == '-' || source_[at_] == '+')
                            ? source_[at_]
                            : '\0';
      if (sign != '\0') ++at_;
      if (lex_end_of_raw()) {
        add_data(trimmed_text(start, end, sign, true), start);
        return true;
      }
    }
    fail(open, "Missing end of raw directive");
    return true;
  }

  bool lex_end_of_raw() {
    skip_space();
    if (!at_text("endraw")) return false;
    at_ += 6;
    skip_space();
    const char sign = at_text("-%}") ? '-' : (at_text("+%}") ? '+' : '\0');
    if (sign != '\0') ++at_;
    if (!at_text("%}")) return false;
    at_ += 2;
    finish_tag(sign, true);
    return true;
  }

  // Tokens up to the tag's end, which counts only outside brackets.
  void lex_tag(TokenType end_type) {
    std::string brackets;
    while (!result_.error) {
      if (brackets.empty() && lex_tag_end(end_type)) return;
      if (at_ >= source_.size()) {
        // The parser reports what was expected instead.
        return;
      }
      lex_token(brackets);
    }
  }

  bool lex_tag_end(TokenType end_type) {
    const bool is_block = end_type == TokenType::block_end;
    const std::string_view closer = is_block ? "%}" : "}}";
    const char first = at_ < source_.size() ? source_[at_] : '\0';
    const bool has_sign = first == '-' || (first == '+' && is_block);
    if (std::string_view(source_).substr(at_ + (has_sign ? 1 : 0), 2) != closer) return false;
    add(end_type, "", at_);
    at_ += has_sign ? 3 : 2;
    finish_tag(has_sign ? first : '\0', is_block);
    return true;
  }

  void lex_token(std::string& brackets) {
    const char c = source_[at_];
    const char32_t code = decode_utf8(std::string_view(source_).substr(at_)).code_point;
    if (is_space(code)) {
      skip_space();
    } else if (is_digit_character(c)) {
      lex_number();
    } else if (is_identifier_part(code)) {
      lex_name();
    } else if (c == '\'' || c == '"') {
      lex_string(c);
    } else {
      lex_operator(brackets);
    }
  }

  // Digits with single underscores between them; the end offset, or `start` when there is none.
  template <typename IsDigit>
  size_t scan_digits(size_t start, IsDigit is_wanted) const {
    size_t end = start;
    while (end < source_.size()) {
      const bool separated = source_[end] == '_' && end > start && end + 1 < source_.size() &&
                             is_wanted(source_[end + 1]);
      if (separated) {
        end += 2;
      } else if (is_wanted(source_[end])) {
        ++end;
      } else {
        break;
      }
    }
    return end;
  }

  void lex_number() {
    const size_t start = at_;
    const bool after_dot = start > 0 && source_[start - 1] == '.';
    if (!after_dot) {
      const size_t end = scan_float(start);
      if (end > start) return add_number(TokenType::floating, start, end);
    }
    size_t end = start;
    if (source_[start] == '0' && start + 1 < source_.size()) {
      const char base = static_cast<char>(source_[start + 1] | 0x20);
      end = scan_prefixed(start, base);
    }
    if (end == start) {
      // A decimal number starting with 0 may hold zeros only; what follows is the next token.
      end = source_[start] == '0' ? scan_digits(start, [](char c) { return c == '0'; })
                                  : scan_digits(start, is_digit_character);
    }
    add_number(TokenType::integer, start, end);
  }

  size_t scan_prefixed(size_t start, char base) const {
    const auto accepts = [base](char c) {
      const char lower = static_cast<char>(c | 0x20);
      if (base == 'b') return c == '0' || c == '1';
      if (base == 'o') return c >= '0' && c <= '7';
      return is_digit_character(c) || (lower >= 'a' && lower <= 'f');
    };
    if (base != 'b' && base != 'o' && base != 'x') return start;
    size_t digits = start + 2;
    if (digits < source_.size() && source_[digits] == '_') ++digits;
    const size_t end = scan_digits(digits, accepts);
    return end > digits ? end : start;
  }

  // digits [. digits] [e [sign] digits] with at least one of the two parts; `start` when it is no
  // float.
  size_t scan_float(size_t start) const {
    size_t end = scan_digits(start, is_digit_character);
    bool is_float = false;
    if (end + 1 < source_.size() && source_[end] == '.' && is_digit_character(source_[end + 1])) {
      end = scan_digits(end + 1, is_digit_character);
      is_float = true;
    }
    if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t digits = end + 1;
      if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-')) ++digits;
      const size_t exponent_end = scan_digits(digits, is_digit_character);
      if (exponent_end > digits) return exponent_end;
    }
    return is_float ? end : start;
  }

  void add_number(TokenType type, size_t start, size_t end) {
    std::string text = source_.substr(start, end - start);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    add(type, std::move(text), start);
    at_ = end;
  }

  void lex_name() {
    const size_t start = at_;
    bool valid = true;
    while (at_ < source_.size()) {
      const Utf8Step step = decode_utf8(std::string_view(source_).substr(at_));
      if (!is_identifier_part(step.code_point)) break;
      valid = valid && (at_ > start || is_identifier_start(step.code_point));
      at_ += static_cast<size_t>(step.length);
    }
    if (!valid) return fail(start, "Invalid character in identifier");
    add(TokenType::name, source_.substr(start, at_ - start), start);
  }

  void lex_string(char quote) {
    const size_t start = at_;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) {
      return fail(start, fmt::format("unexpected char '{}': the string does not end", quote));
    }
    LiteralResult literal =
        resolve_escapes(std::string_view(source_).substr(start + 1, end - start - 1));
    if (!literal.problem.empty()) return fail(start, literal.problem);
    add(TokenType::string, std::move(literal.text), start);
    at_ = end + 1;
  }

  void lex_operator(std::string& brackets) {
    for (const OperatorName& candidate : kOperators) {
      if (!at_text(candidate.symbol)) continue;
      const char symbol = candidate.symbol[0];
      if (candidate.symbol == "(") brackets.push_back(')');
      if (candidate.symbol == "[") brackets.push_back(']');
      if (candidate.symbol == "{") brackets.push_back('}');
      if (symbol == ')' || symbol == ']' || symbol == '}') {
        if (brackets.empty()) return fail(at_, fmt::format("unexpected '{}'", symbol));
        if (brackets.back() != symbol) {
          return fail(at_, fmt::format("unexpected '{}', expected '{}'", symbol, brackets.back()));
        }
        brackets.pop_back();
      }
      add(candidate.type, std::string(candidate.symbol), at_);
      at_ += candidate.symbol.size();
      return;
    }
    const Utf8Step step = decode_utf8(std::string_view(source_).substr(at_));
    fail(at_, fmt::format("unexpected char '{}'",
                          source_.substr(at_, static_cast<size_t>(step.length))));
  }

  std::string source_;
  size_t at_ = 0;
  bool line_starting_ = true;
  size_t counted_ = 0;
  Position counted_position_{1, 1};
  LexResult result_;
};

}  // namespace

std::string describe_token_type(TokenType type) {
  for (const OperatorName& candidate : kOperators) {
    if (candidate.type == type) return std::string(candidate.symbol);
  }
  switch (type) {
    case TokenType::end_of_template:
      return "end of template";
    case TokenType::data:
      return "template data / text";
    case TokenType::variable_begin:
      return "begin of print statement";
    case TokenType::variable_end:
      return "end of print statement";
    case TokenType::block_begin:
      return "begin of statement block";
    case TokenType::block_end:
      return "end of statement block";
    case TokenType::name:
      return "name";
    case TokenType::string:
      return "string";
    case TokenType::integer:
      return "integer";
    default:
      return "float";
  }
}

std::string describe_token(const Token& token) {
  return token.type == TokenType::name ? token.text : describe_token_type(token.type);
}

LexResult lex_template(std::string_view source) {
  return Lexer(source).run();
}

}  // namespace nibble::tokenizer::jinja
