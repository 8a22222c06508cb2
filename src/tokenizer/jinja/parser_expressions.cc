// Expressions of the template language: operators, loosest binding first. What they stand between
// is in parser_operands.cc.
#include "tokenizer/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

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

}  // namespace nibble::tokenizer::jinja
