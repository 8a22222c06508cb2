// Evaluation of expressions.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/interpreter.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

namespace nibble::tokenizer::jinja {

Value Interpreter::evaluate(const Expression& expression) {
  if (expression.kind == ExpressionKind::constant) return expression.value;
  const Runtime::Descent descent(runtime_);
  if (!runtime_.step()) {
    runtime_.locate(expression.position);
    return Value();
  }
  Value value = evaluate_kind(expression);
  if (!runtime_.failed()) return value;
  runtime_.locate(expression.position);
  return Value();
}

Value Interpreter::evaluate_kind(const Expression& expression) {
  const auto child = [&](size_t index) { return evaluate(*expression.children[index]); };
  switch (expression.kind) {
    case ExpressionKind::constant:
      return expression.value;
    case ExpressionKind::name:
      return load(expression.symbol);
    case ExpressionKind::attribute: {
      const Value object = child(0);
      return runtime_.failed() ? Value() : get_attribute(runtime_, object, expression.text);
    }
    case ExpressionKind::element: {
      const Value object = child(0);
      const Value key = child(1);
      return runtime_.failed() ? Value() : get_element(runtime_, object, key);
    }
    case ExpressionKind::slice:
      return evaluate_slice(expression);
    case ExpressionKind::list:
    case ExpressionKind::tuple:
      return evaluate_list(expression);
    case ExpressionKind::dict:
      return evaluate_dict(expression);
    case ExpressionKind::call:
      return evaluate_call(expression, Value::missing());
    case ExpressionKind::filter:
      return evaluate_filter(expression);
    case ExpressionKind::test:
      return evaluate_test(expression);
    case ExpressionKind::negate:
      return negate(runtime_, child(0));
    case ExpressionKind::plus:
      return plus(runtime_, child(0));
    case ExpressionKind::logical_not:
      return Value::boolean(!truthy(runtime_, child(0)));
    case ExpressionKind::logical_and: {
      const Value left = child(0);
      return truthy(runtime_, left) ? child(1) : left;
    }
    case ExpressionKind::logical_or: {
      const Value left = child(0);
      return truthy(runtime_, left) ? left : child(1);
    }
    case ExpressionKind::binary: {
      const Value left = child(0);
      const Value right = child(1);
      return runtime_.failed() ? Value() : binary(runtime_, expression.binary, left, right);
    }
    case ExpressionKind::concat:
      return evaluate_concat(expression);
    case ExpressionKind::compare:
      return evaluate_compare(expression);
    case ExpressionKind::condition:
      return evaluate_condition(expression);
    case ExpressionKind::namespace_target:
      return Value();
  }
  return Value();
}

Value Interpreter::evaluate_list(const Expression& expression) {
  std::vector<Value> items;
  items.reserve(expression.children.size());
  for (const auto& child : expression.children) items.push_back(evaluate(*child));
  if (runtime_.failed()) return Value();
  return expression.kind == ExpressionKind::list ? runtime_.list(std::move(items))
                                                 : runtime_.tuple(std::move(items));
}

Value Interpreter::evaluate_dict(const Expression& expression) {
  DictData data;
  for (size_t i = 0; i + 1 < expression.children.size(); i += 2) {
    const Value key = evaluate(*expression.children[i]);
    Value value = evaluate(*expression.children[i + 1]);
    if (runtime_.failed()) return Value();
    if (!is_hashable(key)) {
      return runtime_.fail(ErrorKind::type_error,
                           fmt::format("unhashable type: '{}'", type_name(key)));
    }
    data.set(key, std::move(value));
  }
  return runtime_.dict(std::move(data));
}

Value Interpreter::evaluate_slice(const Expression& expression) {
  Value parts[4];
  for (size_t i = 0; i < 4; ++i) {
    if (expression.children[i]) parts[i] = evaluate(*expression.children[i]);
  }
  if (runtime_.failed()) return Value();
  return slice(runtime_, parts[0], parts[1], parts[2], parts[3]);
}

void Interpreter::spread_keywords(const Value& mapping, CallArguments& arguments) {
  if (!mapping.is_dict()) {
    runtime_.fail(ErrorKind::type_error,
                  fmt::format("argument after ** must be a mapping, not {}", type_name(mapping)));
    return;
  }
  for (const auto& entry : mapping.as_dict().entries()) {
    if (!runtime_.step()) return;
    if (!entry.key.is_string()) {
      runtime_.fail(ErrorKind::type_error, "keywords must be strings");
      return;
    }
    for (const auto& [name, value] : arguments.keywords) {
      if (name != entry.key.as_string()) continue;
      runtime_.fail(ErrorKind::type_error,
                    fmt::format("got multiple values for keyword argument '{}'", name));
      return;
    }
    arguments.keywords.emplace_back(entry.key.as_string(), entry.value);
  }
}

CallArguments Interpreter::evaluate_arguments(const Arguments& arguments) {
  CallArguments evaluated;
  for (const auto& expression : arguments.positional) {
    evaluated.positional.push_back(evaluate(*expression));
  }
  if (arguments.star) {
    const auto more = collect(runtime_, evaluate(*arguments.star));
    evaluated.positional.insert(evaluated.positional.end(), more.begin(), more.end());
  }
  for (const auto& [name, expression] : arguments.keywords) {
    evaluated.keywords.emplace_back(name, evaluate(*expression));
  }
  if (arguments.double_star && !runtime_.failed()) {
    spread_keywords(evaluate(*arguments.double_star), evaluated);
  }
  return evaluated;
}

Value Interpreter::evaluate_call(const Expression& expression, const Value& caller) {
  const Value callee = evaluate(*expression.children[0]);
  CallArguments arguments = evaluate_arguments(*expression.arguments);
  if (!caller.is_missing()) arguments.keywords.emplace_back("caller", caller);
  if (runtime_.failed()) return Value();
  return call(runtime_, callee, arguments);
}

Value Interpreter::evaluate_filter(const Expression& expression) {
  const auto& source = expression.children[0];
  const Value input = source ? evaluate(*source) : *block_input_;
  const CallArguments arguments = evaluate_arguments(*expression.arguments);
  if (runtime_.failed()) return Value();
  return call_filter(runtime_, expression.text, input, arguments);
}

Value Interpreter::evaluate_test(const Expression& expression) {
  const Value input = evaluate(*expression.children[0]);
  const CallArguments arguments = evaluate_arguments(*expression.arguments);
  if (runtime_.failed()) return Value();
  return Value::boolean(call_test(runtime_, expression.text, input, arguments));
}

Value Interpreter::evaluate_concat(const Expression& expression) {
  std::string text;
  for (const auto& child : expression.children) {
    const Value part = evaluate(*child);
    if (runtime_.failed()) return Value();
    text += to_text(runtime_, part);
  }
  return runtime_.string(std::move(text));
}

bool Interpreter::compare(Comparison comparison, const Value& left, const Value& right) {
  switch (comparison) {
    case Comparison::equal:
      return equal(runtime_, left, right);
    case Comparison::not_equal:
      return !equal(runtime_, left, right);
    case Comparison::in:
      return contains(runtime_, right, left);
    case Comparison::not_in:
      return !contains(runtime_, right, left);
    default:
      return ordered(runtime_, comparison, left, right);
  }
}

// a < b < c: every operand once, the rest skipped after the first that does not hold.
Value Interpreter::evaluate_compare(const Expression& expression) {
  Value left = evaluate(*expression.children[0]);
  for (size_t i = 0; i < expression.comparisons.size(); ++i) {
    Value right = evaluate(*expression.children[i + 1]);
    if (runtime_.failed()) return Value();
    if (!compare(expression.comparisons[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

Value Interpreter::evaluate_condition(const Expression& expression) {
  const Value test = evaluate(*expression.children[0]);
  if (runtime_.failed()) return Value();
  if (truthy(runtime_, test)) return evaluate(*expression.children[1]);
  if (expression.children[2]) return evaluate(*expression.children[2]);
  return runtime_.undefined(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was "
                  "defined.",
                  expression.position.line));
}

}  // namespace nibble::tokenizer::jinja
