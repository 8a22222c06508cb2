// Truth, comparison, membership, iteration and look-up of values.
#include "tokenizer/jinja/operators.h"

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/printing.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace nibble::tokenizer::jinja {
namespace {

int compare_numbers(const Value& a, const Value& b) {
  if (a.is(ValueKind::floating) && b.is(ValueKind::floating)) {
    return a.as_floating() < b.as_floating() ? -1 : (a.as_floating() > b.as_floating() ? 1 : 0);
  }
  if (a.is(ValueKind::floating)) return -integer_compare(b, a.as_floating());
  if (b.is(ValueKind::floating)) return integer_compare(a, b.as_floating());
  return integer_compare(a, b);
}

bool is_nan(const Value& value) {
  return value.is(ValueKind::floating) && std::isnan(value.as_floating());
}

bool decide(Comparison comparison, int order) {
  switch (comparison) {
    case Comparison::less:
      return order < 0;
    case Comparison::less_equal:
      return order <= 0;
    case Comparison::greater:
      return order > 0;
    default:
      return order >= 0;
  }
}

const char* comparison_symbol(Comparison comparison) {
  switch (comparison) {
    case Comparison::less:
      return "<";
    case Comparison::less_equal:
      return "<=";
    case Comparison::greater:
      return ">";
    default:
      return ">=";
  }
}

bool equal_dicts(Runtime& runtime, const DictData& a, const DictData& b) {
  if (a.size() != b.size()) return false;
  for (const auto& entry : a.entries()) {
    const Value* other = b.find(entry.key);
    if (other == nullptr || !equal(runtime, entry.value, *other)) return false;
  }
  return true;
}

bool equal_sequences(Runtime& runtime, const SequenceData& a, const SequenceData& b) {
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!equal(runtime, a.items[i], b.items[i])) return false;
  }
  return true;
}

// "dict object", "None": how undefined values call what they were looked up in.
std::string object_description(const Value& object) {
  return object.is_none() ? "None" : type_name(object) + " object";
}

Value sequence_element(const SequenceData& sequence, const Value& key) {
  if (!key.is(ValueKind::integer) && !key.is(ValueKind::boolean)) return Value::missing();
  const auto size = static_cast<int64_t>(sequence.items.size());
  const int64_t index = key.as_integer() < 0 ? key.as_integer() + size : key.as_integer();
  return index < 0 || index >= size ? Value::missing() : sequence.items[static_cast<size_t>(index)];
}

Value string_element(Runtime& runtime, const Value& object, const Value& key) {
  if (!key.is(ValueKind::integer) && !key.is(ValueKind::boolean)) return Value::missing();
  const std::string& text = object.as_string();
  if (!runtime.step(text.size() / 256)) return Value();
  const auto size = static_cast<int64_t>(text_length(text));
  const int64_t index = key.as_integer() < 0 ? key.as_integer() + size : key.as_integer();
  if (index < 0 || index >= size) return Value::missing();
  const size_t start = byte_offset(text, static_cast<size_t>(index));
  const size_t end = start + byte_offset(std::string_view(text).substr(start), 1);
  return runtime.string(text.substr(start, end - start), object.is_markup());
}

// object[key] without any fallback; missing for Python's TypeError and LookupError.
Value plain_element(Runtime& runtime, const Value& object, const Value& key) {
  switch (object.kind()) {
    case ValueKind::dict: {
      if (!is_hashable(key)) return Value::missing();
      const Value* found = object.as_dict().find(key);
      return found == nullptr ? Value::missing() : *found;
    }
    case ValueKind::list:
    case ValueKind::tuple:
      return sequence_element(object.as_sequence(), key);
    case ValueKind::string:
      return string_element(runtime, object, key);
    case ValueKind::object:
      return object.as_object().element(runtime, key);
    default:
      return Value::missing();
  }
}

Value plain_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is(ValueKind::object)) {
    Value found = object.as_object().attribute(runtime, name);
    if (!found.is_missing()) return found;
  }
  return builtin_attribute(runtime, object, name);
}

// One bound of a slice, clipped into [low, high].
int64_t slice_bound(Runtime& runtime, const Value& bound, int64_t fallback, int64_t size,
                    int64_t low, int64_t high) {
  if (bound.is_none()) return fallback;
  if (bound.is_undefined()) {
    runtime.fail_undefined(bound);
    return fallback;
  }
  if (!bound.is_integral()) {
    runtime.fail(ErrorKind::type_error,
                 "slice indices must be integers or None or have an __index__ method");
    return fallback;
  }
  if (bound.is(ValueKind::big_integer)) return integer_sign(bound) < 0 ? low : high;
  int64_t value = bound.as_integer();
  if (value < 0) value = value < -size ? low : value + size;
  return std::clamp(value, low, high);
}

struct SliceBounds {
  int64_t first;
  int64_t last;  // excluded
  int64_t step;
};

// Steps beyond the largest size all mean "one element".
int64_t slice_step(Runtime& runtime, const Value& step) {
  constexpr int64_t kFar = int64_t{1} << 62;
  if (step.is(ValueKind::integer)) return std::clamp(step.as_integer(), -kFar, kFar);
  return slice_bound(runtime, step, 1, kFar, -kFar, kFar);
}

SliceBounds slice_bounds(Runtime& runtime, int64_t size, const Value& start, const Value& stop,
                         const Value& step) {
  SliceBounds bounds{0, 0, slice_step(runtime, step)};
  if (bounds.step == 0) runtime.fail(ErrorKind::value_error, "slice step cannot be zero");
  const bool forward = bounds.step > 0;
  const int64_t low = forward ? 0 : -1;
  const int64_t high = forward ? size : size - 1;
  bounds.first = slice_bound(runtime, start, forward ? low : high, size, low, high);
  bounds.last = slice_bound(runtime, stop, forward ? high : low, size, low, high);
  return bounds;
}

}  // namespace

std::string type_name(const Value& value) {
  switch (value.kind()) {
    case ValueKind::undefined:
      return "Undefined";
    case ValueKind::none:
      return "NoneType";
    case ValueKind::boolean:
      return "bool";
    case ValueKind::integer:
    case ValueKind::big_integer:
      return "int";
    case ValueKind::floating:
      return "float";
    case ValueKind::string:
      return value.is_markup() ? "Markup" : "str";
    case ValueKind::list:
      return "list";
    case ValueKind::tuple:
      return "tuple";
    case ValueKind::dict:
      return "dict";
    case ValueKind::object:
      return value.as_object().type_name();
  }
  return "";
}

bool truthy(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case ValueKind::undefined:
    case ValueKind::none:
      return false;
    case ValueKind::boolean:
      return value.as_boolean();
    case ValueKind::integer:
    case ValueKind::big_integer:
      return integer_sign(value) != 0;
    case ValueKind::floating:
      return value.as_floating() != 0;
    case ValueKind::string:
      return !value.as_string().empty();
    case ValueKind::list:
    case ValueKind::tuple:
      return !value.as_sequence().items.empty();
    case ValueKind::dict:
      return value.as_dict().size() != 0;
    case ValueKind::object:
      return value.as_object().truthy(runtime);
  }
  return false;
}

bool equal(Runtime& runtime, const Value& a, const Value& b) {
  if (!runtime.step()) return false;
  if (a.is_number() && b.is_number()) {
    return !is_nan(a) && !is_nan(b) && compare_numbers(a, b) == 0;
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case ValueKind::string:
      return a.as_string() == b.as_string();
    case ValueKind::list:
    case ValueKind::tuple:
      return &a.as_sequence() == &b.as_sequence() ||
             equal_sequences(runtime, a.as_sequence(), b.as_sequence());
    case ValueKind::dict:
      return &a.as_dict() == &b.as_dict() || equal_dicts(runtime, a.as_dict(), b.as_dict());
    case ValueKind::object:
      return a.as_object().equals(runtime, b.as_object());
    default:
      return true;
  }
}

bool ordered(Runtime& runtime, Comparison comparison, const Value& a, const Value& b) {
  if (!runtime.step()) return false;
  if (a.is_undefined() || b.is_undefined()) {
    runtime.fail_undefined(a.is_undefined() ? a : b);
    return false;
  }
  if (a.is_number() && b.is_number()) {
    return !is_nan(a) && !is_nan(b) && decide(comparison, compare_numbers(a, b));
  }
  if (a.is_string() && b.is_string()) {
    // UTF-8 sorts like the code points it encodes.
    return decide(comparison, a.as_string().compare(b.as_string()));
  }
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto& x = a.as_sequence().items;
    const auto& y = b.as_sequence().items;
    for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
      if (!equal(runtime, x[i], y[i])) return ordered(runtime, comparison, x[i], y[i]);
    }
    return decide(comparison, x.size() < y.size() ? -1 : (x.size() > y.size() ? 1 : 0));
  }
  runtime.fail(ErrorKind::type_error,
               fmt::format("'{}' not supported between instances of '{}' and '{}'",
                           comparison_symbol(comparison), type_name(a), type_name(b)));
  return false;
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (!runtime.step()) return false;
  if (container.is_string()) {
    if (item.is_string()) {
      runtime.step(container.as_string().size() / 256);
      return container.as_string().find(item.as_string()) != std::string::npos;
    }
    runtime.fail(
        ErrorKind::type_error,
        fmt::format("'in <string>' requires string as left operand, not {}", type_name(item)));
    return false;
  }
  if (container.is_dict()) {
    if (is_hashable(item)) return container.as_dict().find(item) != nullptr;
    runtime.fail(ErrorKind::type_error, fmt::format("unhashable type: '{}'", type_name(item)));
    return false;
  }
  if (!is_iterable(container)) {
    runtime.fail(ErrorKind::type_error,
                 fmt::format("argument of type '{}' is not iterable", type_name(container)));
    return false;
  }
  const std::vector<Value> items = collect(runtime, container);
  return std::any_of(items.begin(), items.end(), [&](const Value& candidate) {
    return candidate.same_as(item) || equal(runtime, candidate, item);
  });
}

bool is_iterable(const Value& value) {
  switch (value.kind()) {
    case ValueKind::undefined:
    case ValueKind::string:
    case ValueKind::list:
    case ValueKind::tuple:
    case ValueKind::dict:
      return true;
    case ValueKind::object:
      return value.as_object().is_iterable();
    default:
      return false;
  }
}

std::vector<Value> collect(Runtime& runtime, const Value& value) {
  std::vector<Value> out;
  switch (value.kind()) {
    case ValueKind::undefined:
      break;
    case ValueKind::string:
      if (!runtime.step(value.as_string().size())) break;
      for (const char32_t c : decode_text(value.as_string())) {
        if (runtime.failed()) break;
        out.push_back(runtime.string(encode_text(c)));
      }
      break;
    case ValueKind::list:
    case ValueKind::tuple:
      if (runtime.step(value.as_sequence().items.size())) out = value.as_sequence().items;
      break;
    case ValueKind::dict:
      if (!runtime.step(value.as_dict().size())) break;
      for (const auto& entry : value.as_dict().entries()) out.push_back(entry.key);
      break;
    case ValueKind::object:
      value.as_object().collect(runtime, out);
      break;
    default:
      runtime.fail(ErrorKind::type_error,
                   fmt::format("'{}' object is not iterable", type_name(value)));
  }
  return out;
}

std::optional<int64_t> length_of(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case ValueKind::undefined:
      return 0;
    case ValueKind::string:
      runtime.step(value.as_string().size() / 256);
      return static_cast<int64_t>(text_length(value.as_string()));
    case ValueKind::list:
    case ValueKind::tuple:
      return static_cast<int64_t>(value.as_sequence().items.size());
    case ValueKind::dict:
      return static_cast<int64_t>(value.as_dict().size());
    case ValueKind::object:
      return value.as_object().length(runtime);
    default:
      return std::nullopt;
  }
}

Value undefined_member(Runtime& runtime, const Value& object, const Value& key) {
  if (key.is_string()) {
    std::string name;
    append_text_repr(key.as_string(), name);
    return runtime.undefined(
        fmt::format("'{}' has no attribute {}", object_description(object), name));
  }
  std::string element;
  append_repr(runtime, key, element);
  return runtime.undefined(
      fmt::format("{} has no element {}", object_description(object), element));
}

Value get_attribute(Runtime& runtime, const Value& object, std::string_view name) {
  if (object.is_undefined()) {
    // Python finds these on any object, so the sandbox hides them before the undefined value can
    // complain.
    constexpr std::string_view kAlwaysThere[] = {"__class__", "__init__", "__doc__", "__str__"};
    const bool hidden =
        std::find(std::begin(kAlwaysThere), std::end(kAlwaysThere), name) != std::end(kAlwaysThere);
    return hidden ? builtin_attribute(runtime, object, name) : runtime.fail_undefined(object);
  }
  Value found = plain_attribute(runtime, object, name);
  if (!found.is_missing() || runtime.failed()) return found;
  const Value key = runtime.string(std::string(name));
  found = plain_element(runtime, object, key);
  return found.is_missing() ? undefined_member(runtime, object, key) : found;
}

Value get_element(Runtime& runtime, const Value& object, const Value& key) {
  if (object.is_undefined()) return runtime.fail_undefined(object);
  Value found = plain_element(runtime, object, key);
  if (found.is_missing() && key.is_string() && !runtime.failed()) {
    found = plain_attribute(runtime, object, key.as_string());
  }
  return found.is_missing() ? undefined_member(runtime, object, key) : found;
}

std::vector<size_t> slice_positions(Runtime& runtime, size_t size, const Value& start,
                                    const Value& stop, const Value& step) {
  const SliceBounds bounds = slice_bounds(runtime, static_cast<int64_t>(size), start, stop, step);
  std::vector<size_t> positions;
  if (runtime.failed()) return positions;
  for (int64_t i = bounds.first; bounds.step > 0 ? i < bounds.last : i > bounds.last;) {
    positions.push_back(static_cast<size_t>(i));
    if (__builtin_add_overflow(i, bounds.step, &i)) break;
  }
  runtime.step(positions.size());
  return positions;
}

Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
            const Value& step) {
  if (object.is_undefined()) return runtime.fail_undefined(object);
  if (object.is_string()) {
    const std::u32string text = decode_text(object.as_string());
    std::u32string out;
    for (const size_t i : slice_positions(runtime, text.size(), start, stop, step)) {
      out.push_back(text[i]);
    }
    return runtime.string(encode_text(out), object.is_markup());
  }
  if (object.is_sequence()) {
    const auto& items = object.as_sequence().items;
    std::vector<Value> out;
    for (const size_t i : slice_positions(runtime, items.size(), start, stop, step)) {
      out.push_back(items[i]);
    }
    return object.is(ValueKind::list) ? runtime.list(std::move(out))
                                      : runtime.tuple(std::move(out));
  }
  if (object.is(ValueKind::object)) {
    if (auto* range = dynamic_cast<RangeObject*>(&object.as_object())) {
      const SliceBounds bounds = slice_bounds(runtime, range->size(), start, stop, step);
      if (runtime.failed()) return Value();
      // A step beyond the size means one element; cutting it keeps the product in range.
      const int64_t far = std::max<int64_t>(range->size(), 1);
      const int64_t stride = std::clamp(bounds.step, -far, far) * range->step();
      return Value::object(
          runtime.create<RangeObject>(range->at(bounds.first), range->at(bounds.last), stride));
    }
  }
  const bool is_mapping = object.is_dict();
  return runtime.fail(ErrorKind::type_error,
                      is_mapping
                          ? "unhashable type: 'slice'"
                          : fmt::format("'{}' object is not subscriptable", type_name(object)));
}

bool is_callable(const Value& value) {
  if (value.is_undefined()) return true;
  return value.is(ValueKind::object) && value.as_object().is_callable();
}

Value call(Runtime& runtime, const Value& callee, const CallArguments& arguments) {
  if (callee.is_undefined()) return runtime.fail_undefined(callee);
  if (!is_callable(callee)) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("'{}' object is not callable", type_name(callee)));
  }
  const Runtime::Descent descent(runtime);
  if (!runtime.step()) return Value();
  return callee.as_object().call(runtime, arguments);
}

}  // namespace nibble::tokenizer::jinja
