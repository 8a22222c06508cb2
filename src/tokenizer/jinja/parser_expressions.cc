// Expressions of the template language, loosest binding first.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

namespace nibble::tokenizer::jinja {
namespace {

// Evaluation recurses along the tree, so its depth is bounded here.
constexpr int kMaxTreeDepth = 250;

struct OperatorToken {
  TokenType token;
  BinaryOperator binary;
};

constexpr OperatorToken kSumOperators[] = {{TokenType::add, BinaryOperator::add},
                                           {TokenType::subtract, BinaryOperator::subtract}};
constexpr OperatorToken kProductOperators[] = {
    {TokenType::multiply, BinaryOperator::multiply},
    {TokenType::divide, BinaryOperator::divide},
    {TokenType::floor_divide, BinaryOperator::floor_divide},
    {TokenType::modulo, BinaryOperator::modulo}};

template <size_t kCount>
const OperatorToken* find_operator(const OperatorToken (&table)[kCount], TokenType type) {
  for (const OperatorToken& row : table) {
    if (row.token == type) return &row;
  }
  return nullptr;
}

}  // namespace

ExpressionPtr Parser::make(ExpressionKind kind, Position position) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->position = position;
  return node;
}

ExpressionPtr Parser::make(ExpressionKind kind, Position position, ExpressionPtr a,
                           ExpressionPtr b) {
  ExpressionPtr node = make(kind, position);
  adopt(*node, std::move(a));
  if (b) adopt(*node, std::move(b));
  return node;
}

void Parser::adopt(Expression& parent, ExpressionPtr child) {
  if (child) parent.depth = std::max(parent.depth, child->depth + 1);
  if (parent.depth > kMaxTreeDepth) {
    fail("the expression is nested too deeply", parent.position, ErrorKind::recursion_error);
  }
  parent.children.push_back(std::move(child));
}

ExpressionPtr Parser::string_constant(const std::string& text, Position position) {
  ExpressionPtr node = make(ExpressionKind::constant, position);
  Value& literal = literals_[text];
  if (!literal.is_string()) {
    literal = Value::string(std::make_shared<const StringData>(StringData{text, false}));
  }
  node->value = literal;
  return node;
}

ExpressionPtr Parser::parse_tuple(bool with_condition, bool explicit_parentheses,
                                  std::string_view end_name) {
  const Position position = current().position;
  const auto at_end = [&] {
    return is(TokenType::variable_end) || is(TokenType::block_end) ||
           is(TokenType::right_parenthesis) || (!end_name.empty() && is_name(end_name));
  };
  if (at_end() && !explicit_parentheses) {
    fail(fmt::format("Expected an expression, got '{}'", describe_token(current())), position);
  }
  if (at_end() || failed()) return make(ExpressionKind::tuple, position);
  ExpressionPtr first = parse_expression(with_condition);
  if (!is(TokenType::comma)) return first;
  ExpressionPtr tuple = make(ExpressionKind::tuple, position);
  adopt(*tuple, std::move(first));
  while (!failed() && skip_if(TokenType::comma)) {
    if (at_end()) break;
    adopt(*tuple, parse_expression(with_condition));
  }
  return tuple;
}

ExpressionPtr Parser::parse_expression(bool with_condition) {
  Nesting nesting(*this);
  if (failed()) return make(ExpressionKind::constant, current().position);
  return with_condition ? parse_condition() : parse_or();
}

ExpressionPtr Parser::parse_condition() {
  const Position position = current().position;
  const std::optional<JinjaError> unknown_before = unknown_name_;
  ExpressionPtr value = parse_or();
  if (!is_name("if")) return value;
  // Everything in an inline condition may name filters that do not exist, the value in front of it
  // too.
  unknown_name_ = unknown_before;
  const bool was_soft = std::exchange(is_soft_, true);
  while (!failed() && skip_if_name("if")) {
    ExpressionPtr node = make(ExpressionKind::condition, position, parse_or(), std::move(value));
    adopt(*node, skip_if_name("else") ? parse_expression() : nullptr);
    value = std::move(node);
  }
  is_soft_ = was_soft;
  return value;
}

ExpressionPtr Parser::parse_or() {
  const Position position = current().position;
  ExpressionPtr left = parse_and();
  while (!failed() && skip_if_name("or")) {
    left = make(ExpressionKind::logical_or, position, std::move(left), parse_and());
  }
  return left;
}

ExpressionPtr Parser::parse_and() {
  const Position position = current().position;
  ExpressionPtr left = parse_not();
  while (!failed() && skip_if_name("and")) {
    left = make(ExpressionKind::logical_and, position, std::move(left), parse_not());
  }
  return left;
}

ExpressionPtr Parser::parse_not() {
  if (!is_name("not")) return parse_compare();
  Nesting nesting(*this);
  const Position position = next().position;
  return make(ExpressionKind::logical_not, position, parse_not());
}

ExpressionPtr Parser::parse_compare() {
  const Position position = current().position;
  ExpressionPtr first = parse_sum();
  std::vector<Comparison> comparisons;
  std::vector<ExpressionPtr> others;
  while (!failed()) {
    Comparison comparison = Comparison::equal;
    if (is(TokenType::not_equal)) comparison = Comparison::not_equal;
    if (is(TokenType::less)) comparison = Comparison::less;
    if (is(TokenType::less_equal)) comparison = Comparison::less_equal;
    if (is(TokenType::greater)) comparison = Comparison::greater;
    if (is(TokenType::greater_equal)) comparison = Comparison::greater_equal;
    if (is_name("in")) comparison = Comparison::in;
    const bool is_not_in = is_name("not") && look().type == TokenType::name && look().text == "in";
    if (is_not_in) comparison = Comparison::not_in;
    if (comparison == Comparison::equal && !is(TokenType::equal)) break;
    next();
    if (is_not_in) next();
    comparisons.push_back(comparison);
    others.push_back(parse_sum());
  }
  if (comparisons.empty()) return first;
  ExpressionPtr node = make(ExpressionKind::compare, position, std::move(first));
  for (ExpressionPtr& other : others) adopt(*node, std::move(other));
  node->comparisons = std::move(comparisons);
  return node;
}

ExpressionPtr Parser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (!failed()) {
    const OperatorToken* found = find_operator(kSumOperators, current().type);
    if (found == nullptr) break;
    const Position position = next().position;
    left = make(ExpressionKind::binary, position, std::move(left), parse_concat());
    left->binary = found->binary;
  }
  return left;
}

ExpressionPtr Parser::parse_concat() {
  const Position position = current().position;
  ExpressionPtr first = parse_product();
  if (!is(TokenType::tilde)) return first;
  ExpressionPtr node = make(ExpressionKind::concat, position, std::move(first));
  while (!failed() && skip_if(TokenType::tilde)) adopt(*node, parse_product());
  return node;
}

ExpressionPtr Parser::parse_product() {
  ExpressionPtr left = parse_power();
  while (!failed()) {
    const OperatorToken* found = find_operator(kProductOperators, current().type);
    if (found == nullptr) break;
    const Position position = next().position;
    left = make(ExpressionKind::binary, position, std::move(left), parse_power());
    left->binary = found->binary;
  }
  return left;
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary(true);
  while (!failed() && is(TokenType::power)) {
    const Position position = next().position;
    left = make(ExpressionKind::binary, position, std::move(left), parse_unary(true));
    left->binary = BinaryOperator::power;
  }
  return left;
}

ExpressionPtr Parser::parse_unary(bool with_filter) {
  Nesting nesting(*this);
  ExpressionPtr node;
  if (!failed() && (is(TokenType::subtract) || is(TokenType::add))) {
    const Token sign = next();
    const auto kind =
        sign.type == TokenType::subtract ? ExpressionKind::negate : ExpressionKind::plus;
    node = make(kind, sign.position, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filter ? parse_filter_expression(std::move(node)) : std::move(node);
}

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
