// Statements, scopes and macro calls.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/interpreter.h"
#include "tokenizer/jinja/loop.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

// Removes and returns a keyword; missing when the caller gave none of that name.
Value take_keyword(std::vector<std::pair<std::string, Value>>& keywords, const std::string& name) {
  Value taken = Value::missing();
  std::vector<std::pair<std::string, Value>> rest;
  for (auto& keyword : keywords) {
    if (keyword.first == name) {
      taken = keyword.second;
    } else {
      rest.push_back(std::move(keyword));
    }
  }
  keywords = std::move(rest);
  return taken;
}

}  // namespace

Interpreter::Interpreter(Runtime& runtime, const SyntaxTree& tree)
    : runtime_(runtime), tree_(tree), globals_(tree.names.size(), Value::missing()) {
  scope_ = push_scope(nullptr);
  scope_->is_captured = true;
}

void Interpreter::define(std::string_view name, const Value& value) {
  const auto found = std::find(tree_.names.begin(), tree_.names.end(), name);
  if (found != tree_.names.end()) {
    store(static_cast<Symbol>(found - tree_.names.begin()), value);
  }
}

std::string Interpreter::run() {
  top_ = push_scope(scope_);
  top_->is_captured = true;
  std::string text;
  out_ = &text;
  execute(tree_.body);
  out_ = nullptr;
  return text;
}

Interpreter::Flow Interpreter::execute(const Body& body) {
  const Runtime::Descent descent(runtime_);
  for (const auto& statement : body) {
    if (runtime_.failed()) break;
    const Flow flow = execute(*statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute(const Statement& statement) {
  if (!runtime_.step()) return Flow::normal;
  Flow flow = Flow::normal;
  switch (statement.kind) {
    case StatementKind::if_:
      flow = execute_if(statement);
      break;
    case StatementKind::break_:
      return Flow::break_loop;
    case StatementKind::continue_:
      return Flow::continue_loop;
    default:
      execute_simple(statement);
  }
  runtime_.locate(statement.position);
  return flow;
}

// Everything that never leaves a loop around it.
void Interpreter::execute_simple(const Statement& statement) {
  switch (statement.kind) {
    case StatementKind::output:
      return execute_output(statement);
    case StatementKind::for_:
      return execute_loop(statement, evaluate(*statement.value), 0);
    case StatementKind::set: {
      const Value value = evaluate(*statement.value);
      if (!runtime_.failed()) assign(*statement.targets[0], value);
      return;
    }
    case StatementKind::set_block:
      return execute_set_block(statement);
    case StatementKind::macro:
      capture_scope(scope_);
      store(statement.symbol,
            Value::object(runtime_.create<MacroObject>(*this, *statement.macro, scope_)));
      return;
    case StatementKind::call_block:
      return execute_call_block(statement);
    case StatementKind::filter_block: {
      const Value body = runtime_.string(capture(statement.body, scope_));
      const Value* outer = std::exchange(block_input_, &body);
      const Value filtered = evaluate(*statement.value);
      block_input_ = outer;
      return print(filtered);
    }
    case StatementKind::with:
      return execute_with(statement);
    case StatementKind::block:
      return execute_in_scope(statement.body, statement.is_scoped ? scope_ : top_);
    case StatementKind::scope:
      return execute_in_scope(statement.macro->body, scope_);
    default:
      return;
  }
}

void Interpreter::print(const Value& value) {
  if (runtime_.failed()) return;
  const size_t before = out_->size();
  if (value.is_string()) {
    *out_ += value.as_string();
  } else if (!value.is_undefined()) {
    append_repr(runtime_, value, *out_);
  }
  runtime_.charge(out_->size() - before);
  if (out_->size() > runtime_.limits().max_output_bytes) {
    runtime_.fail(ErrorKind::limit_error, "template output too large");
  }
}

void Interpreter::execute_output(const Statement& statement) {
  for (const auto& expression : statement.expressions) {
    if (runtime_.failed()) return;
    if (expression->kind == ExpressionKind::constant) {
      print(expression->value);
    } else {
      print(evaluate(*expression));
    }
  }
}

Interpreter::Flow Interpreter::execute_if(const Statement& statement) {
  for (const Branch& branch : statement.branches) {
    const bool holds = truthy(runtime_, evaluate(*branch.test));
    if (runtime_.failed()) return Flow::normal;
    if (holds) return execute(branch.body);
  }
  return execute(statement.else_body);
}

bool Interpreter::passes_test(const Statement& statement, Scope* outer, const Value& item) {
  Scope* previous = scope_;
  scope_ = push_scope(outer);
  assign(*statement.targets[0], item);
  const bool passes = !runtime_.failed() && truthy(runtime_, evaluate(*statement.test));
  pop_scope(previous);
  return passes;
}

void Interpreter::execute_loop(const Statement& statement, const Value& iterable, int depth0) {
  std::vector<Value> items;
  if (!runtime_.failed()) items = collect(runtime_, iterable);
  if (runtime_.failed()) return;
  // The loop object may be kept and asked later, when its test or body needs the scope again.
  if (statement.test || statement.is_recursive) capture_scope(scope_);
  Scope* outer = scope_;
  auto* loop = runtime_.create<LoopObject>(*this, statement, outer, std::move(items), depth0);
  bool ran = false;
  for (Value item = loop->advance(); !item.is_missing() && runtime_.step();
       item = loop->advance()) {
    ran = true;
    scope_ = push_scope(outer);
    assign(*statement.targets[0], item);
    store(tree_.loop, Value::object(loop));
    const Flow flow = execute(statement.body);
    pop_scope(outer);
    if (flow == Flow::break_loop || runtime_.failed()) break;
  }
  if (!ran) execute_in_scope(statement.else_body, outer);
}

Value Interpreter::call_loop(const Statement& statement, Scope* outer, const Value& iterable,
                             int depth0) {
  std::string text;
  std::string* previous_out = std::exchange(out_, &text);
  Scope* previous = std::exchange(scope_, outer);
  execute_loop(statement, iterable, depth0);
  scope_ = previous;
  out_ = previous_out;
  return runtime_.failed() ? Value() : runtime_.string(std::move(text));
}

void Interpreter::execute_in_scope(const Body& body, Scope* parent) {
  Scope* previous = scope_;
  scope_ = push_scope(parent);
  execute(body);
  pop_scope(previous);
}

std::string Interpreter::capture(const Body& body, Scope* parent) {
  std::string text;
  std::string* previous = std::exchange(out_, &text);
  execute_in_scope(body, parent);
  out_ = previous;
  return text;
}

void Interpreter::execute_set_block(const Statement& statement) {
  Value value = runtime_.string(capture(statement.body, scope_));
  if (statement.value) {
    const Value* outer = std::exchange(block_input_, &value);
    const Value filtered = evaluate(*statement.value);
    block_input_ = outer;
    value = filtered;
  }
  if (!runtime_.failed()) assign(*statement.targets[0], value);
}

void Interpreter::execute_call_block(const Statement& statement) {
  capture_scope(scope_);
  const Value caller = Value::object(runtime_.create<MacroObject>(*this, *statement.macro, scope_));
  print(evaluate_call(*statement.value, caller));
}

void Interpreter::execute_with(const Statement& statement) {
  // All values are evaluated before the new scope begins.
  std::vector<Value> values;
  for (const auto& expression : statement.expressions) values.push_back(evaluate(*expression));
  if (runtime_.failed()) return;
  Scope* previous = scope_;
  scope_ = push_scope(previous);
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.targets[i], values[i]);
  execute(statement.body);
  pop_scope(previous);
}

Value Interpreter::call_macro(const Macro& macro, Scope* closure, const CallArguments& arguments) {
  const Runtime::Descent descent(runtime_);
  Scope* previous = scope_;
  const Value* previous_input = std::exchange(block_input_, nullptr);
  scope_ = push_scope(closure);
  std::string text;
  std::string* previous_out = std::exchange(out_, &text);
  if (bind_parameters(macro, arguments)) execute(macro.body);
  out_ = previous_out;
  block_input_ = previous_input;
  pop_scope(previous);
  return runtime_.failed() ? Value() : runtime_.string(std::move(text));
}

Value Interpreter::parameter_names(const Macro& macro) {
  std::vector<Value> names;
  for (const Symbol parameter : macro.parameters) {
    names.push_back(runtime_.string(tree_.names[static_cast<size_t>(parameter)]));
  }
  return runtime_.tuple(std::move(names));
}

bool Interpreter::bind_parameters(const Macro& macro, const CallArguments& arguments) {
  auto keywords = arguments.keywords;
  const size_t count = macro.parameters.size();
  const size_t given = std::min(count, arguments.positional.size());
  const size_t first_default = count - macro.defaults.size();
  std::vector<Value> values(arguments.positional.begin(),
                            arguments.positional.begin() + static_cast<ptrdiff_t>(given));
  for (size_t i = given; i < count; ++i) {
    values.push_back(take_keyword(keywords, tree_.names[static_cast<size_t>(macro.parameters[i])]));
  }
  if (!bind_extras(macro, arguments, std::move(keywords))) return false;
  for (size_t i = 0; i < count; ++i) {
    if (!values[i].is_missing()) {
      store(macro.parameters[i], values[i]);
    } else if (i >= first_default) {
      store(macro.parameters[i], evaluate(*macro.defaults[i - first_default]));
    } else {
      store(macro.parameters[i],
            runtime_.undefined(fmt::format("parameter '{}' was not provided",
                                           tree_.names[static_cast<size_t>(macro.parameters[i])])));
    }
  }
  return !runtime_.failed();
}

// caller, kwargs and varargs; too many arguments are an error where the macro does not read those.
bool Interpreter::bind_extras(const Macro& macro, const CallArguments& arguments,
                              std::vector<std::pair<std::string, Value>> keywords) {
  const size_t count = macro.parameters.size();
  const bool names_caller = std::find(macro.parameters.begin(), macro.parameters.end(),
                                      tree_.caller) != macro.parameters.end();
  if (macro.uses_caller && !names_caller) {
    Value caller = take_keyword(keywords, "caller");
    store(tree_.caller,
          caller.is_missing() ? runtime_.undefined("No caller defined") : std::move(caller));
  }
  if (macro.uses_kwargs) {
    DictData data;
    for (const auto& [name, value] : keywords) data.set(runtime_.string(name), value);
    if (!runtime_.failed()) store(tree_.kwargs, runtime_.dict(std::move(data)));
  } else if (!keywords.empty()) {
    const bool is_caller = keywords.front().first == "caller";
    runtime_.fail(ErrorKind::type_error,
                  is_caller ? fmt::format("macro '{}' was invoked with two values for the special "
                                          "caller argument. This is most likely a bug.",
                                          macro.name)
                            : fmt::format("macro '{}' takes no keyword argument '{}'", macro.name,
                                          keywords.front().first));
  }
  if (macro.uses_varargs) {
    const size_t used = std::min(count, arguments.positional.size());
    store(tree_.varargs, runtime_.tuple(std::vector<Value>(
                             arguments.positional.begin() + static_cast<ptrdiff_t>(used),
                             arguments.positional.end())));
  } else if (arguments.positional.size() > count) {
    runtime_.fail(ErrorKind::type_error,
                  fmt::format("macro '{}' takes not more than {} argument(s)", macro.name, count));
  }
  return !runtime_.failed();
}

Scope* Interpreter::push_scope(Scope* parent) {
  Scope* scope = nullptr;
  if (free_scopes_.empty()) {
    runtime_.charge(sizeof(Scope));
    scope = &scopes_.emplace_back();
  } else {
    scope = free_scopes_.back();
    free_scopes_.pop_back();
  }
  scope->parent = parent;
  return scope;
}

void Interpreter::pop_scope(Scope* previous) {
  Scope* left = std::exchange(scope_, previous);
  if (left->is_captured) return;
  left->variables.clear();
  free_scopes_.push_back(left);
}

void Interpreter::capture_scope(Scope* scope) {
  for (; scope != nullptr && !scope->is_captured; scope = scope->parent) scope->is_captured = true;
}

void Interpreter::store(Symbol symbol, Value value) {
  for (auto& [name, held] : scope_->variables) {
    if (name == symbol) {
      held = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(symbol, std::move(value));
}

const Value* Interpreter::find(Symbol symbol) const {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    for (const auto& [name, value] : scope->variables) {
      if (name == symbol) return &value;
    }
  }
  return nullptr;
}

Value Interpreter::load(Symbol symbol) {
  if (const Value* found = find(symbol)) return *found;
  const auto index = static_cast<size_t>(symbol);
  if (globals_[index].is_missing()) globals_[index] = make_global(runtime_, tree_.names[index]);
  if (!globals_[index].is_missing()) return globals_[index];
  return runtime_.undefined(fmt::format("'{}' is undefined", tree_.names[index]));
}

void Interpreter::assign(const Expression& target, const Value& value) {
  if (runtime_.failed()) return;
  switch (target.kind) {
    case ExpressionKind::name:
      return store(target.symbol, value);
    case ExpressionKind::namespace_target:
      return assign_namespace(target, value);
    default:
      return unpack(target, value);
  }
}

void Interpreter::assign_namespace(const Expression& target, const Value& value) {
  const Value holder = load(target.symbol);
  auto* object =
      holder.is(ValueKind::object) ? dynamic_cast<NamespaceObject*>(&holder.as_object()) : nullptr;
  if (object == nullptr) {
    runtime_.fail(ErrorKind::runtime_error, "cannot assign attribute on non-namespace object");
  } else {
    object->set(runtime_, target.text, value);
  }
  runtime_.locate(target.position);
}

void Interpreter::unpack(const Expression& target, const Value& value) {
  const size_t wanted = target.children.size();
  if (!is_iterable(value)) {
    runtime_.fail(ErrorKind::type_error,
                  fmt::format("cannot unpack non-iterable {} object", type_name(value)));
    return;
  }
  const auto items = collect(runtime_, value);
  if (items.size() != wanted && !runtime_.failed()) {
    runtime_.fail(
        ErrorKind::value_error,
        items.size() < wanted
            ? fmt::format("not enough values to unpack (expected {}, got {})", wanted, items.size())
            : fmt::format("too many values to unpack (expected {})", wanted));
  }
  for (size_t i = 0; i < wanted && !runtime_.failed(); ++i) assign(*target.children[i], items[i]);
}

}  // namespace nibble::tokenizer::jinja
