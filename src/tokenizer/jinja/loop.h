// The loop variable of a for statement: position, neighbours, cycle, changed, recursion.
#pragma once

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/interpreter.h"
#include "tokenizer/jinja/runtime.h"

#include <optional>
#include <string>
#include <vector>

namespace nibble::tokenizer::jinja {

/// Elements are taken lazily: an `if` part is evaluated when its element is reached (or asked for).
class LoopObject : public Object {
 public:
  LoopObject(Interpreter& interpreter, const Statement& statement, Scope* outer,
             std::vector<Value> items, int depth0);

  /// Moves to the next element; missing at the end.
  Value advance();

  std::string type_name() const override { return "LoopContext"; }
  void repr(Runtime& runtime, std::string& out) const override;
  std::optional<int64_t> length(Runtime& runtime) override;
  bool is_callable() const override { return true; }
  Value call(Runtime& runtime, const CallArguments& arguments) override;
  Value attribute(Runtime& runtime, std::string_view name) override;

  Value cycle(Runtime& runtime, const CallArguments& arguments) const;
  Value changed(Runtime& runtime, const CallArguments& arguments);

 private:
  const Value& peek();
  Value fetch();
  int64_t count();

  Interpreter& interpreter_;
  const Statement& statement_;
  Scope* outer_;
  std::vector<Value> items_;
  size_t taken_ = 0;  // elements of items_ already looked at
  bool is_filtered_;  // items_ still has to pass the test
  Value after_ = Value::missing();
  Value current_ = Value::missing();
  Value before_ = Value::missing();
  int64_t index0_ = -1;
  int depth0_;
  std::optional<int64_t> count_;
  Value last_changed_ = Value::missing();
};

class MacroObject : public Object {
 public:
  MacroObject(Interpreter& interpreter, const Macro& macro, Scope* closure)
      : interpreter_(interpreter), macro_(macro), closure_(closure) {}

  std::string type_name() const override { return "Macro"; }
  void repr(Runtime& runtime, std::string& out) const override;
  bool is_callable() const override { return true; }
  Value call(Runtime& runtime, const CallArguments& arguments) override;
  Value attribute(Runtime& runtime, std::string_view name) override;

 private:
  Interpreter& interpreter_;
  const Macro& macro_;
  Scope* closure_;
};

}  // namespace nibble::tokenizer::jinja
