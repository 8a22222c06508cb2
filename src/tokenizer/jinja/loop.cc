// Loops and macros as values.
#include "tokenizer/jinja/loop.h"

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

namespace nibble::tokenizer::jinja {

LoopObject::LoopObject(Interpreter& interpreter, const Statement& statement, Scope* outer,
                       std::vector<Value> items, int depth0)
    : interpreter_(interpreter),
      statement_(statement),
      outer_(outer),
      items_(std::move(items)),
      is_filtered_(statement.test != nullptr),
      depth0_(depth0) {}

Value LoopObject::fetch() {
  while (taken_ < items_.size() && !interpreter_.runtime().failed()) {
    const Value& candidate = items_[taken_++];
    if (!is_filtered_ || interpreter_.passes_test(statement_, outer_, candidate)) return candidate;
  }
  return Value::missing();
}

const Value& LoopObject::peek() {
  if (after_.is_missing()) after_ = fetch();
  return after_;
}

Value LoopObject::advance() {
  Value next = after_.is_missing() ? fetch() : after_;
  after_ = Value::missing();
  if (next.is_missing()) return next;
  ++index0_;
  before_ = current_;
  current_ = next;
  return next;
}

int64_t LoopObject::count() {
  if (count_.has_value()) return *count_;
  if (is_filtered_) {
    // Asking for the length evaluates the test for all that is left.
    std::vector<Value> rest;
    for (Value item = fetch(); !item.is_missing(); item = fetch()) rest.push_back(item);
    items_ = std::move(rest);
    taken_ = 0;
    is_filtered_ = false;
    count_ = static_cast<int64_t>(items_.size()) + index0_ + 1 + (after_.is_missing() ? 0 : 1);
  } else {
    count_ = static_cast<int64_t>(items_.size());
  }
  return *count_;
}

void LoopObject::repr(Runtime&, std::string& out) const {
  out += fmt::format("<LoopContext {}/{}>", index0_ + 1, const_cast<LoopObject*>(this)->count());
}

std::optional<int64_t> LoopObject::length(Runtime&) {
  return count();
}

Value LoopObject::call(Runtime& runtime, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "loop", arguments, {"iterable"}, 1);
  if (runtime.failed()) return Value();
  if (!statement_.is_recursive) {
    return runtime.fail(ErrorKind::type_error,
                        "The loop must have the 'recursive' marker to be called recursively.");
  }
  return interpreter_.call_loop(statement_, outer_, bound[0], depth0_ + 1);
}

Value LoopObject::cycle(Runtime& runtime, const CallArguments& arguments) const {
  if (arguments.positional.empty() || !arguments.keywords.empty()) {
    return runtime.fail(ErrorKind::type_error, "no items for cycling given");
  }
  const auto index = static_cast<size_t>(index0_ < 0 ? 0 : index0_);
  return arguments.positional[index % arguments.positional.size()];
}

Value LoopObject::changed(Runtime& runtime, const CallArguments& arguments) {
  const Value now = runtime.tuple(arguments.positional);
  const bool differs = last_changed_.is_missing() || !equal(runtime, last_changed_, now);
  if (differs) last_changed_ = now;
  return Value::boolean(differs);
}

Value LoopObject::attribute(Runtime& runtime, std::string_view name) {
  if (name == "index") return Value::integer(index0_ + 1);
  if (name == "index0") return Value::integer(index0_);
  if (name == "first") return Value::boolean(index0_ == 0);
  if (name == "last") return Value::boolean(peek().is_missing());
  if (name == "length") return Value::integer(count());
  if (name == "revindex") return Value::integer(count() - index0_);
  if (name == "revindex0") return Value::integer(count() - index0_ - 1);
  if (name == "depth") return Value::integer(depth0_ + 1);
  if (name == "depth0") return Value::integer(depth0_);
  if (name == "previtem") {
    return index0_ == 0 ? runtime.undefined("there is no previous item") : before_;
  }
  if (name == "nextitem") {
    const Value& next = peek();
    return next.is_missing() ? runtime.undefined("there is no next item") : next;
  }
  const MethodEntry methods[] = {
      {"cycle",
       [](Runtime& run, const Value& self, const CallArguments& arguments) {
         return static_cast<LoopObject&>(self.as_object()).cycle(run, arguments);
       }},
      {"changed",
       [](Runtime& run, const Value& self, const CallArguments& arguments) {
         return static_cast<LoopObject&>(self.as_object()).changed(run, arguments);
       }},
  };
  for (const MethodEntry& method : methods) {
    if (method.name == name) return make_method(runtime, method, Value::object(this));
  }
  return Value::missing();
}

void MacroObject::repr(Runtime&, std::string& out) const {
  out += "<Macro ";
  append_text_repr(macro_.name, out);
  out += ">";
}

Value MacroObject::call(Runtime&, const CallArguments& arguments) {
  return interpreter_.call_macro(macro_, closure_, arguments);
}

Value MacroObject::attribute(Runtime& runtime, std::string_view name) {
  if (name == "name") return runtime.string(macro_.name);
  if (name == "arguments") return interpreter_.parameter_names(macro_);
  if (name == "caller") return Value::boolean(macro_.uses_caller);
  if (name == "catch_kwargs") return Value::boolean(macro_.uses_kwargs);
  if (name == "catch_varargs") return Value::boolean(macro_.uses_varargs);
  return Value::missing();
}

}  // namespace nibble::tokenizer::jinja
