// Limits, failures and construction of values.
#include "tokenizer/jinja/runtime.h"

#include <algorithm>

namespace nibble::tokenizer::jinja {

Value Runtime::fail(ErrorKind kind, std::string message) {
  if (!failed_) {
    failed_ = true;
    error_ = JinjaError{kind, std::move(message), Position{}};
  }
  return Value();
}

Value Runtime::fail_undefined(const Value& undefined) {
  if (undefined.is_missing()) return fail(ErrorKind::undefined_error, "value is undefined");
  return fail(undefined.as_undefined().kind, undefined.as_undefined().message);
}

void Runtime::locate(Position position) {
  if (failed_ && error_.position.line == 0) error_.position = position;
}

bool Runtime::step(uint64_t count) {
  steps_ += count;
  if (steps_ > limits_.max_steps) fail(ErrorKind::limit_error, "template runs too long");
  return !failed_;
}

bool Runtime::charge(size_t bytes) {
  // Saturating, so that an absurd request cannot wrap around.
  made_bytes_ = bytes > limits_.max_made_bytes ? limits_.max_made_bytes + 1 : made_bytes_ + bytes;
  if (made_bytes_ > limits_.max_made_bytes) {
    fail(ErrorKind::limit_error, "template makes too much data");
  }
  return !failed_;
}

Value Runtime::string(std::string text, bool is_markup) {
  if (!charge(text.size() + sizeof(StringData))) return Value();
  return Value::string(std::make_shared<const StringData>(StringData{std::move(text), is_markup}));
}

Value::Sequence Runtime::sequence(std::vector<Value> items, bool is_group) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, nesting_depth(item));
  if (depth >= kMaxNesting) fail(ErrorKind::recursion_error, "values are nested too deeply");
  // A failed render must not build on: replaced by an empty list, nesting stays bounded.
  if (!charge(items.size() * sizeof(Value) + sizeof(SequenceData))) {
    items.clear();
    depth = 0;
  }
  return std::make_shared<const SequenceData>(SequenceData{std::move(items), depth + 1, is_group});
}

Value Runtime::list(std::vector<Value> items) {
  return Value::list(sequence(std::move(items), false));
}

Value Runtime::tuple(std::vector<Value> items) {
  return Value::tuple(sequence(std::move(items), false));
}

Value Runtime::group(Value grouper, Value items) {
  std::vector<Value> pair;
  pair.push_back(std::move(grouper));
  pair.push_back(std::move(items));
  return Value::tuple(sequence(std::move(pair), true));
}

Value Runtime::dict(DictData data) {
  if (data.depth() > kMaxNesting) {
    return fail(ErrorKind::recursion_error, "values are nested too deeply");
  }
  if (!charge(data.size() * 4 * sizeof(Value) + sizeof(DictData))) return Value();
  return Value::dict(std::make_shared<const DictData>(std::move(data)));
}

Value Runtime::undefined(std::string message, ErrorKind kind) {
  if (!charge(message.size() + sizeof(UndefinedData))) return Value();
  return Value::undefined(
      std::make_shared<const UndefinedData>(UndefinedData{std::move(message), kind}));
}

Runtime::Descent::Descent(Runtime& runtime) : runtime_(runtime) {
  if (++runtime_.depth_ > runtime_.limits_.max_depth) {
    runtime_.fail(ErrorKind::recursion_error, "maximum recursion depth exceeded");
  }
}

}  // namespace nibble::tokenizer::jinja
