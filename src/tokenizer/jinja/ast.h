// The syntax tree of a template, and the tables a render needs beside it.
//
// Nodes are plain structs; the meaning of `children` per kind stands in the enum. A tree is
// immutable after parsing and shared by all renders and threads; constants hold no Object.
#pragma once

#include "tokenizer/jinja/error.h"
#include "tokenizer/jinja/value.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nibble::tokenizer::jinja {

using Symbol = int;  // index into SyntaxTree::names

enum class ExpressionKind {
  constant,  // value
  name,  // symbol
  attribute,  // [object], text
  element,  // [object, key]
  slice,  // [object, start, stop, step], absent parts null
  list,
  tuple,
  dict,  // key, value, key, value ...
  call,  // [callee], arguments
  filter,  // [input], text, arguments; a null input is the body of the enclosing block
  test,  // [input], text, arguments
  negate,  // [operand]
  plus,
  logical_not,
  logical_and,  // [left, right]
  logical_or,
  binary,  // [left, right], binary
  concat,  // all operands of a chain of ~
  compare,  // [first, second, ...], comparisons between neighbours
  condition,  // [test, then, else], else may be null
  namespace_target,  // only as an assignment target: symbol, text = attribute
};

enum class BinaryOperator { add, subtract, multiply, divide, floor_divide, modulo, power };
enum class Comparison { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Arguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr star;  // *args
  ExpressionPtr double_star;  // **kwargs
};

struct Expression {
  ExpressionKind kind = ExpressionKind::constant;
  Position position;
  int depth = 1;  // nesting below, bounded by the parser
  Value value;
  Symbol symbol = -1;
  std::string text;
  BinaryOperator binary = BinaryOperator::add;
  std::vector<Comparison> comparisons;
  std::vector<ExpressionPtr> children;
  std::unique_ptr<Arguments> arguments;
};

enum class StatementKind {
  output,
  if_,
  for_,
  set,
  set_block,
  macro,
  call_block,
  filter_block,
  with,
  block,
  scope,  // {% generation %}: its body in a scope of its own
  break_,
  continue_,
};

struct Statement;
using Body = std::vector<std::unique_ptr<Statement>>;

struct Macro {
  std::string name;
  std::vector<Symbol> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Body body;
  bool uses_caller = false;
  bool uses_kwargs = false;
  bool uses_varargs = false;
};

struct Branch {
  ExpressionPtr test;
  Body body;
};

struct Statement {
  StatementKind kind = StatementKind::output;
  Position position;
  std::vector<ExpressionPtr> expressions;  // output: what is printed; with: the values
  std::vector<ExpressionPtr> targets;  // set, for: one; with: one per value
  ExpressionPtr value;  // set: value; for: iterable; call_block: the call; blocks: the filter chain
  ExpressionPtr test;  // for: the `if` part
  std::vector<Branch> branches;  // if, elif
  Body body;
  Body else_body;
  std::unique_ptr<Macro> macro;  // macro, call_block
  Symbol symbol = -1;  // macro: its name
  bool is_recursive = false;  // for
  bool is_scoped = false;  // block
};

struct SyntaxTree {
  Body body;
  std::vector<std::string> names;  // of symbols, unique
  Symbol loop = -1;  // symbols the interpreter itself assigns
  Symbol caller = -1;
  Symbol kwargs = -1;
  Symbol varargs = -1;
};

}  // namespace nibble::tokenizer::jinja
