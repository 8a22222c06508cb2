// Operands of the template language: names, literals, and what follows them - subscripts, calls,
// filters, tests.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace nibble::tokenizer::jinja {

ExpressionPtr Parser::parse_primary() {
  const Token& token = current();
  const Position position = token.position;
  switch (token.type) {
    case TokenType::name:
      return parse_name();
    case TokenType::string: {
      std::string text;
      while (is(TokenType::string)) text += next().text;
      return string_constant(text, position);
    }
    case TokenType::integer:
    case TokenType::floating:
      return parse_number();
    case TokenType::left_parenthesis: {
      next();
      ExpressionPtr inner = parse_tuple(true, true);
      expect(TokenType::right_parenthesis);
      return inner;
    }
    case TokenType::left_bracket:
      return parse_list();
    case TokenType::left_brace:
      return parse_dict();
    default:
      fail(fmt::format("unexpected '{}'", describe_token(token)), position);
      return make(ExpressionKind::constant, position);
  }
}

ExpressionPtr Parser::parse_name() {
  const Token token = next();
  const std::string& name = token.text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    ExpressionPtr node = make(ExpressionKind::constant, token.position);
    node->value = Value::boolean(name == "true" || name == "True");
    return node;
  }
  if (name == "none" || name == "None") return make(ExpressionKind::constant, token.position);
  if (name == "lipsum" || name == "self" || name == "super") {
    fail(fmt::format("'{}' is not supported", name), token.position, ErrorKind::unsupported_error);
  }
  ExpressionPtr node = make(ExpressionKind::name, token.position);
  node->symbol = symbol(name);
  note_read(name);
  return node;
}

ExpressionPtr Parser::parse_number() {
  const Token token = next();
  ExpressionPtr node = make(ExpressionKind::constant, token.position);
  if (token.type == TokenType::floating) {
    node->value = Value::floating(std::strtod(token.text.c_str(), nullptr));
    return node;
  }
  int base = 10;
  std::string_view digits = token.text;
  if (digits.size() > 2 && digits[0] == '0') {
    const char mark = static_cast<char>(digits[1] | 0x20);
    if (mark == 'x') base = 16;
    if (mark == 'o') base = 8;
    if (mark == 'b') base = 2;
    if (base != 10) digits.remove_prefix(2);
  }
  Runtime runtime{Limits{}};
  node->value = integer_from_digits(runtime, digits, base);
  if (runtime.failed()) fail(runtime.error().message, token.position, runtime.error().kind);
  return node;
}

ExpressionPtr Parser::parse_list() {
  ExpressionPtr node = make(ExpressionKind::list, next().position);
  while (!failed() && !is(TokenType::right_bracket)) {
    if (!node->children.empty()) expect(TokenType::comma);
    if (is(TokenType::right_bracket)) break;
    adopt(*node, parse_expression());
  }
  expect(TokenType::right_bracket);
  return node;
}

ExpressionPtr Parser::parse_dict() {
  ExpressionPtr node = make(ExpressionKind::dict, next().position);
  while (!failed() && !is(TokenType::right_brace)) {
    if (!node->children.empty()) expect(TokenType::comma);
    if (is(TokenType::right_brace)) break;
    adopt(*node, parse_expression());
    expect(TokenType::colon);
    adopt(*node, parse_expression());
  }
  expect(TokenType::right_brace);
  return node;
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr node) {
  while (!failed()) {
    if (is(TokenType::dot) || is(TokenType::left_bracket)) {
      node = parse_subscript(std::move(node));
    } else if (is(TokenType::left_parenthesis)) {
      node = parse_call(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

ExpressionPtr Parser::parse_filter_expression(ExpressionPtr node) {
  while (!failed()) {
    if (is(TokenType::pipe)) {
      node = parse_filter(std::move(node), false);
    } else if (is_name("is")) {
      node = parse_test(std::move(node));
    } else if (is(TokenType::left_parenthesis)) {
      node = parse_call(std::move(node));
    } else {
      break;
    }
  }
  return node;
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr object) {
  const Token token = next();
  if (token.type == TokenType::left_bracket) {
    ExpressionPtr node = parse_subscribed(std::move(object));
    node->position = token.position;
    expect(TokenType::right_bracket);
    return node;
  }
  const Token name = next();
  if (name.type == TokenType::name) {
    ExpressionPtr node = make(ExpressionKind::attribute, token.position, std::move(object));
    node->text = name.text;
    return node;
  }
  if (name.type != TokenType::integer) fail("expected name or number", name.position);
  ExpressionPtr node = make(ExpressionKind::element, token.position, std::move(object));
  ExpressionPtr index = make(ExpressionKind::constant, name.position);
  Runtime runtime{Limits{}};
  if (!failed()) index->value = integer_from_digits(runtime, name.text, 10);
  adopt(*node, std::move(index));
  return node;
}

// What stands between brackets: an index, several (a tuple), or a slice.
ExpressionPtr Parser::parse_subscribed(ExpressionPtr object) {
  const Position position = current().position;
  ExpressionPtr start;
  if (is(TokenType::right_bracket)) {
    return make(ExpressionKind::element, position, std::move(object),
                make(ExpressionKind::tuple, position));
  }
  if (!is(TokenType::colon)) {
    start = parse_expression();
    if (!is(TokenType::colon)) {
      if (is(TokenType::comma)) {
        ExpressionPtr tuple = make(ExpressionKind::tuple, position, std::move(start));
        while (!failed() && skip_if(TokenType::comma)) adopt(*tuple, parse_expression());
        start = std::move(tuple);
      }
      return make(ExpressionKind::element, position, std::move(object), std::move(start));
    }
  }
  next();
  const auto at_end = [&] { return is(TokenType::colon) || is(TokenType::right_bracket); };
  ExpressionPtr stop = at_end() ? nullptr : parse_expression();
  ExpressionPtr step;
  if (skip_if(TokenType::colon) && !at_end()) step = parse_expression();
  ExpressionPtr node = make(ExpressionKind::slice, position, std::move(object));
  adopt(*node, std::move(start));
  adopt(*node, std::move(stop));
  adopt(*node, std::move(step));
  return node;
}

ExpressionPtr Parser::parse_call(ExpressionPtr callee) {
  ExpressionPtr node = make(ExpressionKind::call, current().position, std::move(callee));
  node->arguments = parse_arguments();
  return node;
}

std::unique_ptr<Arguments> Parser::parse_arguments() {
  auto arguments = std::make_unique<Arguments>();
  const Position position = expect(TokenType::left_parenthesis).position;
  const auto ensure = [&](bool holds) {
    if (!holds) fail("invalid syntax for function call expression", position);
  };
  bool is_first = true;
  while (!failed() && !is(TokenType::right_parenthesis)) {
    if (!std::exchange(is_first, false)) {
      expect(TokenType::comma);
      if (is(TokenType::right_parenthesis)) break;
    }
    if (skip_if(TokenType::multiply)) {
      ensure(!arguments->star && !arguments->double_star);
      arguments->star = parse_expression();
    } else if (skip_if(TokenType::power)) {
      ensure(!arguments->double_star);
      arguments->double_star = parse_expression();
    } else if (is(TokenType::name) && look().type == TokenType::assign) {
      ensure(!arguments->double_star);
      const Token key = next();
      next();
      const bool repeated = std::any_of(arguments->keywords.begin(), arguments->keywords.end(),
                                        [&](const auto& old) { return old.first == key.text; });
      if (repeated) fail(fmt::format("keyword argument repeated: {}", key.text), key.position);
      arguments->keywords.emplace_back(key.text, parse_expression());
    } else {
      ensure(!arguments->star && !arguments->double_star && arguments->keywords.empty());
      arguments->positional.push_back(parse_expression());
    }
  }
  expect(TokenType::right_parenthesis);
  return arguments;
}

std::string Parser::parse_dotted_name() {
  std::string name = expect(TokenType::name).text;
  while (!failed() && skip_if(TokenType::dot)) name += "." + expect(TokenType::name).text;
  return name;
}

ExpressionPtr Parser::parse_filter(ExpressionPtr input, bool start_inline) {
  while (!failed() && (is(TokenType::pipe) || start_inline)) {
    if (!start_inline) next();
    start_inline = false;
    const Position position = current().position;
    ExpressionPtr node = make(ExpressionKind::filter, position);
    node->text = parse_dotted_name();
    check_filter(node->text, position);
    node->arguments =
        is(TokenType::left_parenthesis) ? parse_arguments() : std::make_unique<Arguments>();
    adopt(*node, std::move(input));
    input = std::move(node);
  }
  return input;
}

bool Parser::starts_test_argument() const {
  switch (current().type) {
    case TokenType::name:
      return !is_name("else") && !is_name("or") && !is_name("and");
    case TokenType::string:
    case TokenType::integer:
    case TokenType::floating:
    case TokenType::left_bracket:
    case TokenType::left_brace:
      return true;
    default:
      return false;
  }
}

ExpressionPtr Parser::parse_test(ExpressionPtr input) {
  const Position position = next().position;
  const bool is_negated = skip_if_name("not");
  const Position name_position = current().position;
  ExpressionPtr node = make(ExpressionKind::test, position, std::move(input));
  node->text = parse_dotted_name();
  check_test(node->text, name_position);
  if (is(TokenType::left_parenthesis)) {
    node->arguments = parse_arguments();
  } else {
    node->arguments = std::make_unique<Arguments>();
    if (!failed() && starts_test_argument()) {
      if (is_name("is")) fail("You cannot chain multiple tests with is", current().position);
      if (!failed()) node->arguments->positional.push_back(parse_postfix(parse_primary()));
    }
  }
  if (is_negated) node = make(ExpressionKind::logical_not, position, std::move(node));
  return node;
}

void Parser::check_filter(const std::string& name, Position position) {
  if (failed() || find_filter(name) != nullptr) return;
  if (is_refused_filter(name)) {
    return fail(fmt::format("the filter '{}' is not supported", name), position,
                ErrorKind::unsupported_error);
  }
  if (is_soft_ || unknown_name_) return;
  unknown_name_ =
      JinjaError{ErrorKind::assertion_error, fmt::format("No filter named '{}'.", name), position};
}

void Parser::check_test(const std::string& name, Position position) {
  if (failed() || find_test(name) != nullptr || is_soft_ || unknown_name_) return;
  unknown_name_ =
      JinjaError{ErrorKind::assertion_error, fmt::format("No test named '{}'.", name), position};
}

}  // namespace nibble::tokenizer::jinja
