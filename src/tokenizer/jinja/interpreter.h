// Runs a syntax tree: scopes, statements and expressions of one render.
//
// Scoping is the reference's: `if` has none of its own; loops (per iteration), macros, with, blocks
// and captured bodies have one each; an assignment always goes to the innermost scope. Macros see
// the scope they were defined in, by reference.
#pragma once

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/runtime.h"

#include <deque>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::tokenizer::jinja {

/// Variables of one scope. Recycled on leaving unless something that lives on refers to it.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<Symbol, Value>> variables;
  bool is_captured = false;
};

class LoopObject;

class Interpreter {
 public:
  Interpreter(Runtime& runtime, const SyntaxTree& tree);

  /// A variable of the template's context; names the template never mentions are ignored.
  void define(std::string_view name, const Value& value);

  /// The rendered text; check runtime.failed() afterwards.
  std::string run();

  Runtime& runtime() { return runtime_; }

  // For loops and macros, which call back.
  Value call_macro(const Macro& macro, Scope* closure, const CallArguments& arguments);
  Value call_loop(const Statement& statement, Scope* outer, const Value& iterable, int depth0);
  Value parameter_names(const Macro& macro);
  bool passes_test(const Statement& statement, Scope* outer, const Value& item);

 private:
  enum class Flow { normal, break_loop, continue_loop };

  // Statements (interpreter_statements.cc).
  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  void execute_simple(const Statement& statement);
  void execute_output(const Statement& statement);
  Flow execute_if(const Statement& statement);
  void execute_loop(const Statement& statement, const Value& iterable, int depth0);
  void execute_call_block(const Statement& statement);
  void execute_set_block(const Statement& statement);
  void execute_with(const Statement& statement);
  void execute_in_scope(const Body& body, Scope* parent);
  std::string capture(const Body& body, Scope* parent);
  void print(const Value& value);
  bool bind_parameters(const Macro& macro, const CallArguments& arguments);
  bool bind_extras(const Macro& macro, const CallArguments& arguments,
                   std::vector<std::pair<std::string, Value>> keywords);

  // Variables.
  Scope* push_scope(Scope* parent);
  void pop_scope(Scope* previous);
  static void capture_scope(Scope* scope);
  void store(Symbol symbol, Value value);
  const Value* find(Symbol symbol) const;
  Value load(Symbol symbol);
  void assign(const Expression& target, const Value& value);
  void assign_namespace(const Expression& target, const Value& value);
  void unpack(const Expression& target, const Value& value);

  // Expressions (interpreter_expressions.cc).
  Value evaluate(const Expression& expression);
  Value evaluate_kind(const Expression& expression);
  Value evaluate_list(const Expression& expression);
  Value evaluate_dict(const Expression& expression);
  Value evaluate_slice(const Expression& expression);
  Value evaluate_call(const Expression& expression, const Value& caller);
  Value evaluate_filter(const Expression& expression);
  Value evaluate_test(const Expression& expression);
  Value evaluate_concat(const Expression& expression);
  Value evaluate_compare(const Expression& expression);
  Value evaluate_condition(const Expression& expression);
  bool compare(Comparison comparison, const Value& left, const Value& right);
  CallArguments evaluate_arguments(const Arguments& arguments);
  void spread_keywords(const Value& mapping, CallArguments& arguments);

  Runtime& runtime_;
  const SyntaxTree& tree_;
  std::deque<Scope> scopes_;  // all ever made, addresses stay
  std::vector<Scope*> free_scopes_;
  Scope* scope_ = nullptr;
  Scope* top_ = nullptr;  // the template's own scope, above the context
  std::vector<Value> globals_;  // by symbol, missing until first used
  std::string* out_ = nullptr;
  const Value* block_input_ = nullptr;  // what a block's filter chain starts from
};

}  // namespace nibble::tokenizer::jinja
