// Filters, tests and globals by name, and the argument binding they share.
//
// Each is a plain function on a Runtime; the tables are constant and sorted by nothing: look-ups
// are by name at parse time (existence) and at run time (call). Semantics are those of jinja2 3.1
// in the environment that transformers builds for chat templates.
#pragma once

#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <span>
#include <string_view>

namespace nibble::tokenizer::jinja {

using FilterFunction = Value (*)(Runtime& runtime, const Value& input,
                                 const CallArguments& arguments);
using TestFunction = bool (*)(Runtime& runtime, const Value& input, const CallArguments& arguments);

struct FilterEntry {
  std::string_view name;
  FilterFunction function;
};

struct TestEntry {
  std::string_view name;
  TestFunction function;
};

/// Null when there is none. Known to jinja2 but not to us: is_refused_filter.
FilterFunction find_filter(std::string_view name);
TestFunction find_test(std::string_view name);
bool is_refused_filter(std::string_view name);

/// Runs a filter or test chosen by a value (map, select ...); unknown names fail the render.
Value call_filter(Runtime& runtime, std::string_view name, const Value& input,
                  const CallArguments& arguments);
bool call_test(Runtime& runtime, std::string_view name, const Value& input,
               const CallArguments& arguments);

// One table per source file; builtins.cc searches them in turn.
std::span<const FilterEntry> text_filters();
std::span<const FilterEntry> sequence_filters();
std::span<const FilterEntry> selection_filters();
std::span<const FilterEntry> number_filters();

/// The global of that name, made for this render; missing when there is none.
Value make_global(Runtime& runtime, std::string_view name);

/// Attributes and methods of Python's own types; missing when the type has no such attribute.
/// Attributes that the sandbox hides come back as undefined values that raise SecurityError.
Value builtin_attribute(Runtime& runtime, const Value& object, std::string_view name);

/// A callable that runs `function` with `self` bound.
using MethodFunction = Value (*)(Runtime& runtime, const Value& self,
                                 const CallArguments& arguments);
struct MethodEntry {
  std::string_view name;
  MethodFunction function;
};
std::span<const MethodEntry> string_methods();
std::span<const MethodEntry> container_methods(ValueKind kind);
std::span<const MethodEntry> number_methods(ValueKind kind);
Value make_method(Runtime& runtime, const MethodEntry& method, const Value& self);

/// Values for `names` in order, missing where the caller gave none. Fails with TypeError on too
/// many or unknown arguments and when one of the first `required` is missing; then the result still
/// has names.size() entries.
std::vector<Value> bind_arguments(Runtime& runtime, std::string_view function,
                                  const CallArguments& arguments,
                                  std::span<const std::string_view> names, size_t required);

/// For the common case of a list of names written at the call.
template <size_t kCount>
std::vector<Value> bind_arguments(Runtime& runtime, std::string_view function,
                                  const CallArguments& arguments,
                                  const std::string_view (&names)[kCount], size_t required = 0) {
  return bind_arguments(runtime, function, arguments,
                        std::span<const std::string_view>(names, kCount), required);
}

/// Fails unless there are no arguments.
bool expect_no_arguments(Runtime& runtime, std::string_view function,
                         const CallArguments& arguments);

/// The attribute getter of map, sort, join ...: "a.b.0" (digits are indices), or an integer index.
/// With a default (not missing), undefined steps become it.
Value attribute_path(Runtime& runtime, const Value& item, const Value& path,
                     const Value& fallback = Value::missing());

/// str.center; fill is one code point.
Value center_text(Runtime& runtime, std::string_view text, int64_t width, std::string_view fill,
                  bool is_markup);

/// str.replace; count < 0: all.
Value replace_text(Runtime& runtime, std::string_view text, std::string_view from,
                   std::string_view to, int64_t count, bool is_markup);

// Typed readings of a bound argument; fail with TypeError on another type.
std::string text_argument(Runtime& runtime, const Value& value);
int64_t integer_argument(Runtime& runtime, const Value& value);
int64_t integer_argument(Runtime& runtime, const Value& value, int64_t fallback);
bool flag_argument(Runtime& runtime, const Value& value, bool fallback);

}  // namespace nibble::tokenizer::jinja
