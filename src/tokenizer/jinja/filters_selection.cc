// Filters that look up, map or select: default, attr, map, select, reject and their attribute
// forms.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

Value make_iterator(Runtime& runtime, std::vector<Value> items) {
  return Value::object(runtime.create<IteratorObject>(std::move(items)));
}

Value filter_default(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "default", arguments, {"default_value", "boolean"});
  const bool replaces =
      input.is_undefined() || (flag_argument(runtime, bound[1], false) && !truthy(runtime, input));
  if (!replaces) return input;
  return bound[0].is_missing() ? runtime.string("") : bound[0];
}

// obj.name without falling back to obj["name"].
Value filter_attr(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "attr", arguments, {"name"}, 1);
  if (runtime.failed()) return Value();
  const std::string name = text_argument(runtime, bound[0]);
  if (input.is_undefined()) return runtime.fail_undefined(input);
  if (input.is(ValueKind::object)) {
    Value found = input.as_object().attribute(runtime, name);
    if (!found.is_missing()) return found;
  }
  Value found = builtin_attribute(runtime, input, name);
  return found.is_missing() ? undefined_member(runtime, input, bound[0]) : found;
}

CallArguments without_first(const CallArguments& arguments, size_t count) {
  CallArguments rest;
  rest.positional.assign(arguments.positional.begin() + static_cast<ptrdiff_t>(count),
                         arguments.positional.end());
  rest.keywords = arguments.keywords;
  return rest;
}

std::vector<Value> map_attribute(Runtime& runtime, const Value& input,
                                 const CallArguments& arguments) {
  Value path = Value::missing();
  Value fallback = Value::missing();
  for (const auto& [name, value] : arguments.keywords) {
    if (name == "attribute") {
      path = value;
    } else if (name == "default") {
      fallback = value.is_none() ? Value::missing() : value;
    } else {
      runtime.fail(ErrorKind::filter_argument_error,
                   fmt::format("Unexpected keyword argument '{}'", name));
    }
  }
  std::vector<Value> out;
  if (runtime.failed()) return out;
  for (const Value& item : collect(runtime, input)) {
    if (runtime.failed()) break;
    out.push_back(attribute_path(runtime, item, path, fallback));
  }
  return out;
}

Value filter_map(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!truthy(runtime, input)) return make_iterator(runtime, {});
  const bool by_attribute =
      arguments.positional.empty() &&
      std::any_of(arguments.keywords.begin(), arguments.keywords.end(),
                  [](const auto& keyword) { return keyword.first == "attribute"; });
  if (by_attribute) return make_iterator(runtime, map_attribute(runtime, input, arguments));
  if (arguments.positional.empty()) {
    return runtime.fail(ErrorKind::filter_argument_error, "map requires a filter argument");
  }
  const std::string name = text_argument(runtime, arguments.positional[0]);
  const CallArguments rest = without_first(arguments, 1);
  std::vector<Value> out;
  for (const Value& item : collect(runtime, input)) {
    if (runtime.failed()) return Value();
    out.push_back(call_filter(runtime, name, item, rest));
  }
  return make_iterator(runtime, std::move(out));
}

// select (wanted = true), reject, and with `by_attribute` their attribute forms.
Value choose(Runtime& runtime, const Value& input, const CallArguments& arguments, bool wanted,
             bool by_attribute) {
  if (!truthy(runtime, input)) return make_iterator(runtime, {});
  const size_t offset = by_attribute ? 1 : 0;
  if (arguments.positional.size() < offset) {
    return runtime.fail(ErrorKind::filter_argument_error, "Missing parameter for attribute name");
  }
  const bool has_test = arguments.positional.size() > offset;
  const std::string test =
      has_test ? text_argument(runtime, arguments.positional[offset]) : std::string();
  const CallArguments rest = has_test ? without_first(arguments, offset + 1) : CallArguments{};
  std::vector<Value> out;
  for (const Value& item : collect(runtime, input)) {
    if (!runtime.step()) return Value();
    const Value value =
        by_attribute ? attribute_path(runtime, item, arguments.positional[0]) : item;
    const bool holds = has_test ? call_test(runtime, test, value, rest) : truthy(runtime, value);
    if (holds == wanted) out.push_back(item);
  }
  return make_iterator(runtime, std::move(out));
}

Value filter_select(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return choose(runtime, input, arguments, true, false);
}

Value filter_reject(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return choose(runtime, input, arguments, false, false);
}

Value filter_selectattr(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return choose(runtime, input, arguments, true, true);
}

Value filter_rejectattr(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return choose(runtime, input, arguments, false, true);
}

constexpr FilterEntry kFilters[] = {
    {"attr", filter_attr},       {"d", filter_default},
    {"default", filter_default}, {"map", filter_map},
    {"reject", filter_reject},   {"rejectattr", filter_rejectattr},
    {"select", filter_select},   {"selectattr", filter_selectattr},
};

}  // namespace

Value attribute_path(Runtime& runtime, const Value& item, const Value& path,
                     const Value& fallback) {
  if (path.is_none() || path.is_missing()) return item;
  const auto look_up = [&](const Value& object, const Value& key) {
    Value found = get_element(runtime, object, key);
    return found.is_undefined() && !fallback.is_missing() ? fallback : found;
  };
  if (!path.is_string()) return look_up(item, path);
  Value value = item;
  for (const std::string_view part : split(path.as_string(), ".", -1)) {
    if (!runtime.step()) return Value();
    const bool is_index =
        !part.empty() && part.size() < 18 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    value = look_up(value, is_index ? Value::integer(std::stoll(std::string(part)))
                                    : runtime.string(std::string(part)));
  }
  return value;
}

std::span<const FilterEntry> selection_filters() {
  return kFilters;
}

}  // namespace nibble::tokenizer::jinja
