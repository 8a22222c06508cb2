// Name tables of filters and globals, argument binding, and the attributes of built-in types.
#include "tokenizer/jinja/builtins.h"

#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

// What ImmutableSandboxedEnvironment hides because it would change the object.
constexpr std::string_view kListMutators[] = {"append", "clear", "pop",    "reverse",
                                              "insert", "sort",  "extend", "remove"};
constexpr std::string_view kDictMutators[] = {"clear", "pop", "popitem", "setdefault", "update"};

bool is_mutator(const Value& object, std::string_view name) {
  const auto in = [name](const auto& table) {
    return std::find(std::begin(table), std::end(table), name) != std::end(table);
  };
  return (object.is(ValueKind::list) && in(kListMutators)) ||
         (object.is_dict() && in(kDictMutators));
}

std::span<const MethodEntry> methods_of(ValueKind kind) {
  switch (kind) {
    case ValueKind::string:
      return string_methods();
    case ValueKind::list:
    case ValueKind::tuple:
    case ValueKind::dict:
      return container_methods(kind);
    case ValueKind::boolean:
    case ValueKind::integer:
    case ValueKind::big_integer:
    case ValueKind::floating:
      return number_methods(kind);
    default:
      return {};
  }
}

// Numbers have plain attributes too.
Value number_attribute(const Value& object, std::string_view name) {
  if (!object.is_number()) return Value::missing();
  if (name == "real") {
    return object.is(ValueKind::boolean) ? Value::integer(object.as_integer()) : object;
  }
  if (name == "imag") {
    return object.is(ValueKind::floating) ? Value::floating(0.0) : Value::integer(0);
  }
  if (object.is(ValueKind::floating)) return Value::missing();
  if (name == "numerator") {
    return object.is(ValueKind::boolean) ? Value::integer(object.as_integer()) : object;
  }
  return name == "denominator" ? Value::integer(1) : Value::missing();
}

}  // namespace

FilterFunction find_filter(std::string_view name) {
  for (const auto table :
       {text_filters(), sequence_filters(), selection_filters(), number_filters()}) {
    for (const FilterEntry& entry : table) {
      if (entry.name == name) return entry.function;
    }
  }
  return nullptr;
}

bool is_refused_filter(std::string_view name) {
  constexpr std::string_view kRefused[] = {"urlize", "random", "pprint", "wordwrap"};
  return std::find(std::begin(kRefused), std::end(kRefused), name) != std::end(kRefused);
}

Value call_filter(Runtime& runtime, std::string_view name, const Value& input,
                  const CallArguments& arguments) {
  if (!runtime.step()) return Value();
  const FilterFunction function = find_filter(name);
  if (function != nullptr) {
    const Runtime::Descent descent(runtime);
    return runtime.failed() ? Value() : function(runtime, input, arguments);
  }
  if (is_refused_filter(name)) {
    return runtime.fail(ErrorKind::unsupported_error,
                        fmt::format("the filter '{}' is not supported", name));
  }
  return runtime.fail(ErrorKind::runtime_error, fmt::format("No filter named '{}' found.", name));
}

bool call_test(Runtime& runtime, std::string_view name, const Value& input,
               const CallArguments& arguments) {
  if (!runtime.step()) return false;
  const TestFunction function = find_test(name);
  if (function != nullptr) return function(runtime, input, arguments);
  runtime.fail(ErrorKind::runtime_error, fmt::format("No test named '{}' found.", name));
  return false;
}

Value make_method(Runtime& runtime, const MethodEntry& method, const Value& self) {
  return Value::object(runtime.create<MethodObject>(method, self));
}

Value builtin_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  const bool is_internal =
      name.size() > 4 && name.substr(0, 2) == "__" && name.substr(name.size() - 2) == "__";
  if (is_internal || is_mutator(object, name)) {
    return runtime.undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(object)),
        ErrorKind::security_error);
  }
  Value number = number_attribute(object, name);
  if (!number.is_missing()) return number;
  if (object.is(ValueKind::tuple) && object.as_sequence().is_group) {
    if (name == "grouper") return object.as_sequence().items[0];
    if (name == "list") return object.as_sequence().items[1];
  }
  for (const MethodEntry& method : methods_of(object.kind())) {
    if (method.name == name) return make_method(runtime, method, object);
  }
  return Value::missing();
}

std::vector<Value> bind_arguments(Runtime& runtime, std::string_view function,
                                  const CallArguments& arguments,
                                  std::span<const std::string_view> names, size_t required) {
  std::vector<Value> bound(names.size(), Value::missing());
  if (arguments.positional.size() > names.size()) {
    runtime.fail(ErrorKind::type_error,
                 fmt::format("{}() takes at most {} arguments ({} given)", function, names.size(),
                             arguments.positional.size()));
    return bound;
  }
  std::copy(arguments.positional.begin(), arguments.positional.end(), bound.begin());
  for (const auto& [name, value] : arguments.keywords) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end()) {
      runtime.fail(ErrorKind::type_error,
                   fmt::format("{}() got an unexpected keyword argument '{}'", function, name));
      return bound;
    }
    const auto index = static_cast<size_t>(found - names.begin());
    if (index < arguments.positional.size()) {
      runtime.fail(ErrorKind::type_error,
                   fmt::format("{}() got multiple values for argument '{}'", function, name));
      return bound;
    }
    bound[index] = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (bound[i].is_missing()) {
      runtime.fail(ErrorKind::type_error,
                   fmt::format("{}() missing required argument: '{}'", function, names[i]));
      break;
    }
  }
  return bound;
}

bool expect_no_arguments(Runtime& runtime, std::string_view function,
                         const CallArguments& arguments) {
  if (arguments.positional.empty() && arguments.keywords.empty()) return true;
  runtime.fail(ErrorKind::type_error,
               fmt::format("{}() takes no arguments ({} given)", function,
                           arguments.positional.size() + arguments.keywords.size()));
  return false;
}

std::string text_argument(Runtime& runtime, const Value& value) {
  if (value.is_string()) return value.as_string();
  if (!value.is_missing()) {
    runtime.fail(ErrorKind::type_error,
                 fmt::format("expected a string, got '{}'", type_name(value)));
  }
  return "";
}

int64_t integer_argument(Runtime& runtime, const Value& value) {
  if (value.is(ValueKind::integer) || value.is(ValueKind::boolean)) return value.as_integer();
  if (value.is(ValueKind::big_integer)) {
    runtime.fail(ErrorKind::overflow_error, "Python int too large to convert to C ssize_t");
  } else {
    runtime.fail(ErrorKind::type_error,
                 fmt::format("'{}' object cannot be interpreted as an integer", type_name(value)));
  }
  return 0;
}

int64_t integer_argument(Runtime& runtime, const Value& value, int64_t fallback) {
  return value.is_missing() ? fallback : integer_argument(runtime, value);
}

bool flag_argument(Runtime& runtime, const Value& value, bool fallback) {
  return value.is_missing() ? fallback : truthy(runtime, value);
}

}  // namespace nibble::tokenizer::jinja
