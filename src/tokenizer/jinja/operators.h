// What Python's operators and the environment's look-ups do with values.
//
// All of them fail the render the way Python raises (type, zero division, undefined ...) and then
// return a harmless value.
#pragma once

#include "tokenizer/jinja/ast.h"
#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::tokenizer::jinja {

/// The class name in Python's messages: "int", "NoneType", "Markup" ...
std::string type_name(const Value& value);

bool truthy(Runtime& runtime, const Value& value);
bool equal(Runtime& runtime, const Value& a, const Value& b);
/// less, less_equal, greater, greater_equal; TypeError for values without an order.
bool ordered(Runtime& runtime, Comparison comparison, const Value& a, const Value& b);
bool contains(Runtime& runtime, const Value& container, const Value& item);
Value binary(Runtime& runtime, BinaryOperator operation, const Value& a, const Value& b);
Value negate(Runtime& runtime, const Value& value);
Value plus(Runtime& runtime, const Value& value);

/// iter() would work.
bool is_iterable(const Value& value);
/// All elements: code points of a string, keys of a dict. Fails with TypeError when not iterable.
std::vector<Value> collect(Runtime& runtime, const Value& value);
/// len(): nothing when the type has none (nothing is failed).
std::optional<int64_t> length_of(Runtime& runtime, const Value& value);

/// object.name as the sandboxed environment resolves it: attribute first, then element.
Value get_attribute(Runtime& runtime, const Value& object, std::string_view name);
/// object[key]: element first, then attribute.
Value get_element(Runtime& runtime, const Value& object, const Value& key);
/// Bounds are None when absent.
Value slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
            const Value& step);
/// The undefined value for a missing member.
Value undefined_member(Runtime& runtime, const Value& object, const Value& key);

Value call(Runtime& runtime, const Value& callee, const CallArguments& arguments);
bool is_callable(const Value& value);

/// Python's slice.indices(): positions to visit, in order.
std::vector<size_t> slice_positions(Runtime& runtime, size_t size, const Value& start,
                                    const Value& stop, const Value& step);

/// int or float as double; fails with TypeError for others.
double number_argument(Runtime& runtime, const Value& value);

}  // namespace nibble::tokenizer::jinja
