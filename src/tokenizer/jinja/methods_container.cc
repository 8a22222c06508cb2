// Methods of list, tuple, dict and numbers that do not change their object.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

#include <cmath>

namespace nibble::tokenizer::jinja {
namespace {

template <DictViewKind kKind>
Value dict_view(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "dict", arguments)) return Value();
  return Value::object(runtime.create<DictViewObject>(self, kKind));
}

Value dict_get(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  // dict.get takes no keywords.
  if (!arguments.keywords.empty()) {
    return runtime.fail(ErrorKind::type_error, "dict.get() takes no keyword arguments");
  }
  const auto bound = bind_arguments(runtime, "get", arguments, {"key", "default"}, 1);
  if (runtime.failed()) return Value();
  if (!is_hashable(bound[0])) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("unhashable type: '{}'", type_name(bound[0])));
  }
  const Value* found = self.as_dict().find(bound[0]);
  if (found != nullptr) return *found;
  return bound[1].is_missing() ? Value() : bound[1];
}

Value method_copy(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "copy", arguments)) return Value();
  if (self.is(ValueKind::list)) return runtime.list(self.as_sequence().items);
  return runtime.dict(self.as_dict());
}

Value dict_fromkeys(Runtime& runtime, const Value&, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "fromkeys", arguments, {"iterable", "value"}, 1);
  DictData data;
  if (runtime.failed()) return Value();
  for (const Value& key : collect(runtime, bound[0])) {
    if (!runtime.step()) return Value();
    if (!is_hashable(key)) {
      return runtime.fail(ErrorKind::type_error,
                          fmt::format("unhashable type: '{}'", type_name(key)));
    }
    data.set(key, bound[1].is_missing() ? Value() : bound[1]);
  }
  return runtime.failed() ? Value() : runtime.dict(std::move(data));
}

Value sequence_count(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "count", arguments, {"value"}, 1);
  int64_t count = 0;
  for (const Value& item : self.as_sequence().items) {
    if (runtime.failed()) return Value();
    if (equal(runtime, item, bound[0])) ++count;
  }
  return Value::integer(count);
}

Value sequence_index(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "index", arguments, {"value", "start", "stop"}, 1);
  const auto& items = self.as_sequence().items;
  const Value start = bound[1].is_missing() ? Value() : bound[1];
  const Value stop = bound[2].is_missing() ? Value() : bound[2];
  for (const size_t i : slice_positions(runtime, items.size(), start, stop, Value())) {
    if (runtime.failed()) return Value();
    if (equal(runtime, items[i], bound[0])) return Value::integer(static_cast<int64_t>(i));
  }
  std::string text;
  append_repr(runtime, bound[0], text);
  return runtime.fail(ErrorKind::value_error,
                      fmt::format("{} is not in {}", text, type_name(self)));
}

Value integer_bit_length(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "bit_length", arguments)) return Value();
  std::string bits = integer_to_string(self, 2);
  if (bits[0] == '-') bits.erase(0, 1);
  return Value::integer(bits == "0" ? 0 : static_cast<int64_t>(bits.size()));
}

Value number_conjugate(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "conjugate", arguments)) return Value();
  return plus(runtime, self);
}

Value float_is_integer(Runtime& runtime, const Value& self, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "is_integer", arguments)) return Value();
  const double value = self.as_floating();
  return Value::boolean(std::isfinite(value) && value == std::trunc(value));
}

constexpr MethodEntry kDictMethods[] = {
    {"copy", method_copy},
    {"fromkeys", dict_fromkeys},
    {"get", dict_get},
    {"items", dict_view<DictViewKind::items>},
    {"keys", dict_view<DictViewKind::keys>},
    {"values", dict_view<DictViewKind::values>},
};

// A tuple has no copy.
constexpr MethodEntry kSequenceMethods[] = {
    {"count", sequence_count},
    {"index", sequence_index},
    {"copy", method_copy},
};

constexpr MethodEntry kIntegerMethods[] = {
    {"bit_length", integer_bit_length},
    {"conjugate", number_conjugate},
};

constexpr MethodEntry kFloatMethods[] = {
    {"conjugate", number_conjugate},
    {"is_integer", float_is_integer},
};

}  // namespace

std::span<const MethodEntry> container_methods(ValueKind kind) {
  if (kind == ValueKind::dict) return kDictMethods;
  const std::span<const MethodEntry> methods = kSequenceMethods;
  return kind == ValueKind::list ? methods : methods.first(2);
}

std::span<const MethodEntry> number_methods(ValueKind kind) {
  if (kind == ValueKind::floating) return kFloatMethods;
  return kIntegerMethods;
}

}  // namespace nibble::tokenizer::jinja
