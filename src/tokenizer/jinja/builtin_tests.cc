// The tests of `is`.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

// value % divisor == 0 in Python's arithmetic.
bool remainder_is(Runtime& runtime, const Value& value, const Value& divisor, int64_t wanted) {
  const Value rest = binary(runtime, BinaryOperator::modulo, value, divisor);
  return !runtime.failed() && equal(runtime, rest, Value::integer(wanted));
}

bool test_odd(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test_odd", arguments) &&
         remainder_is(runtime, input, Value::integer(2), 1);
}

bool test_even(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test_even", arguments) &&
         remainder_is(runtime, input, Value::integer(2), 0);
}

bool test_divisibleby(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "test_divisibleby", arguments, {"num"}, 1);
  return !runtime.failed() && remainder_is(runtime, input, bound[0], 0);
}

// Tests of the kind of a value, without arguments.
template <bool (*kHolds)(const Value&)>
bool test_kind(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test", arguments) && kHolds(input);
}

bool is_defined(const Value& value) {
  return !value.is_undefined();
}
bool is_undefined(const Value& value) {
  return value.is_undefined();
}
bool is_none(const Value& value) {
  return value.is_none();
}
bool is_boolean(const Value& value) {
  return value.is(ValueKind::boolean);
}
bool is_true(const Value& value) {
  return is_boolean(value) && value.as_boolean();
}
bool is_false(const Value& value) {
  return is_boolean(value) && !value.as_boolean();
}
bool is_integer(const Value& value) {
  return value.is_integral() && !is_boolean(value);
}
bool is_float(const Value& value) {
  return value.is(ValueKind::floating);
}
bool is_number(const Value& value) {
  return value.is_number();
}
bool is_string(const Value& value) {
  return value.is_string();
}
bool is_mapping(const Value& value) {
  return value.is_dict();
}
bool is_escaped(const Value& value) {
  return value.is_markup();
}

// Has len() and [].
bool is_sequence(const Value& value) {
  return value.is_undefined() || value.is_string() || value.is_sequence() || value.is_dict() ||
         (value.is(ValueKind::object) && value.as_object().type_name() == "range");
}

// str(value).islower() / isupper(): some cased character, and none of the other case.
bool has_only_case(const std::string& text, bool (*wanted)(char32_t), bool (*unwanted)(char32_t)) {
  bool found = false;
  for (const char32_t c : decode_text(text)) {
    if (unwanted(c) || is_title(c)) return false;
    found = found || wanted(c);
  }
  return found;
}

bool test_lower(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test_lower", arguments) &&
         has_only_case(to_text(runtime, input), is_lower, is_upper);
}

bool test_upper(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test_upper", arguments) &&
         has_only_case(to_text(runtime, input), is_upper, is_lower);
}

bool test_filter(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test_filter", arguments) && input.is_string() &&
         (find_filter(input.as_string()) != nullptr || is_refused_filter(input.as_string()));
}

bool test_test(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return expect_no_arguments(runtime, "test_test", arguments) && input.is_string() &&
         find_test(input.as_string()) != nullptr;
}

bool test_in(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "test_in", arguments, {"seq"}, 1);
  return !runtime.failed() && contains(runtime, bound[0], input);
}

bool test_sameas(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "test_sameas", arguments, {"other"}, 1);
  return !runtime.failed() && input.same_as(bound[0]);
}

template <Comparison kComparison>
bool test_comparison(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "comparison", arguments, {"other"}, 1);
  if (runtime.failed()) return false;
  if (kComparison == Comparison::equal) return equal(runtime, input, bound[0]);
  if (kComparison == Comparison::not_equal) return !equal(runtime, input, bound[0]);
  return ordered(runtime, kComparison, input, bound[0]);
}

constexpr TestEntry kTests[] = {
    {"!=", test_comparison<Comparison::not_equal>},
    {"<", test_comparison<Comparison::less>},
    {"<=", test_comparison<Comparison::less_equal>},
    {"==", test_comparison<Comparison::equal>},
    {">", test_comparison<Comparison::greater>},
    {">=", test_comparison<Comparison::greater_equal>},
    {"boolean", test_kind<is_boolean>},
    {"callable", test_kind<is_callable>},
    {"defined", test_kind<is_defined>},
    {"divisibleby", test_divisibleby},
    {"eq", test_comparison<Comparison::equal>},
    {"equalto", test_comparison<Comparison::equal>},
    {"escaped", test_kind<is_escaped>},
    {"even", test_even},
    {"false", test_kind<is_false>},
    {"filter", test_filter},
    {"float", test_kind<is_float>},
    {"ge", test_comparison<Comparison::greater_equal>},
    {"greaterthan", test_comparison<Comparison::greater>},
    {"gt", test_comparison<Comparison::greater>},
    {"in", test_in},
    {"integer", test_kind<is_integer>},
    {"iterable", test_kind<is_iterable>},
    {"le", test_comparison<Comparison::less_equal>},
    {"lessthan", test_comparison<Comparison::less>},
    {"lower", test_lower},
    {"lt", test_comparison<Comparison::less>},
    {"mapping", test_kind<is_mapping>},
    {"ne", test_comparison<Comparison::not_equal>},
    {"none", test_kind<is_none>},
    {"number", test_kind<is_number>},
    {"odd", test_odd},
    {"sameas", test_sameas},
    {"sequence", test_kind<is_sequence>},
    {"string", test_kind<is_string>},
    {"test", test_test},
    {"true", test_kind<is_true>},
    {"undefined", test_kind<is_undefined>},
    {"upper", test_upper},
};

}  // namespace

TestFunction find_test(std::string_view name) {
  const auto found = std::lower_bound(
      std::begin(kTests), std::end(kTests), name,
      [](const TestEntry& entry, std::string_view wanted) { return entry.name < wanted; });
  return found != std::end(kTests) && found->name == name ? found->function : nullptr;
}

}  // namespace nibble::tokenizer::jinja
