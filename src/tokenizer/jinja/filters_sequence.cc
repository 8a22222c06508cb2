// Filters on sequences and mappings: order, grouping, cutting, aggregation.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

Value make_iterator(Runtime& runtime, std::vector<Value> items, const char* type = "generator") {
  return Value::object(runtime.create<IteratorObject>(std::move(items), type));
}

Value ignore_case(Runtime& runtime, const Value& value) {
  return value.is_string() ? runtime.string(to_lower(value.as_string())) : value;
}

// What items are sorted, compared or grouped by.
struct KeyRule {
  Value attribute = Value::missing();
  Value fallback = Value::missing();
  bool case_sensitive = false;

  Value key(Runtime& runtime, const Value& item) const {
    const bool has_path = !attribute.is_missing() && !attribute.is_none();
    const Value value = has_path ? attribute_path(runtime, item, attribute, fallback) : item;
    return case_sensitive ? value : ignore_case(runtime, value);
  }
};

struct KeyedItem {
  Value key;
  Value item;
};

std::vector<KeyedItem> with_keys(Runtime& runtime, const std::vector<Value>& items,
                                 const KeyRule& rule) {
  std::vector<KeyedItem> keyed;
  for (const Value& item : items) {
    if (!runtime.step()) break;
    keyed.push_back(KeyedItem{rule.key(runtime, item), item});
  }
  return keyed;
}

// Stable in both directions, like sorted(reverse=True).
void sort_keyed(Runtime& runtime, std::vector<KeyedItem>& items, bool reverse) {
  std::stable_sort(items.begin(), items.end(), [&](const KeyedItem& a, const KeyedItem& b) {
    return reverse ? ordered(runtime, Comparison::less, b.key, a.key)
                   : ordered(runtime, Comparison::less, a.key, b.key);
  });
}

std::vector<Value> items_of(const std::vector<KeyedItem>& keyed) {
  std::vector<Value> items;
  for (const KeyedItem& entry : keyed) items.push_back(entry.item);
  return items;
}

Value filter_length(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "len", arguments)) return Value();
  const auto length = length_of(runtime, input);
  if (length.has_value()) return Value::integer(*length);
  return runtime.fail(ErrorKind::type_error,
                      fmt::format("object of type '{}' has no len()", type_name(input)));
}

Value filter_list(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "list", arguments)) return Value();
  return runtime.list(collect(runtime, input));
}

Value filter_first(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "first", arguments)) return Value();
  if (input.is(ValueKind::object)) {
    if (auto* iterator = dynamic_cast<IteratorObject*>(&input.as_object())) {
      const Value next = iterator->next();
      if (!next.is_missing()) return next;
      return runtime.undefined("No first item, sequence was empty.");
    }
  }
  if (input.is_string() && !input.as_string().empty()) {
    return runtime.string(input.as_string().substr(0, byte_offset(input.as_string(), 1)));
  }
  const auto items = collect(runtime, input);
  if (runtime.failed()) return Value();
  return items.empty() ? runtime.undefined("No first item, sequence was empty.") : items.front();
}

bool is_reversible(const Value& value) {
  return value.is_string() || value.is_sequence() || value.is_dict() ||
         (value.is(ValueKind::object) && value.as_object().is_reversible());
}

Value filter_last(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "last", arguments)) return Value();
  if (input.is_undefined()) return runtime.undefined("No last item, sequence was empty.");
  if (!is_reversible(input)) {
    return runtime.fail(ErrorKind::type_error,
                        fmt::format("'{}' object is not reversible", type_name(input)));
  }
  if (input.is_string() && !input.as_string().empty()) {
    return get_element(runtime, runtime.string(input.as_string()), Value::integer(-1));
  }
  const auto items = collect(runtime, input);
  return items.empty() ? runtime.undefined("No last item, sequence was empty.") : items.back();
}

Value filter_reverse(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "reverse", arguments)) return Value();
  if (input.is_string()) return slice(runtime, input, Value(), Value(), Value::integer(-1));
  if (!is_iterable(input)) {
    return runtime.fail(ErrorKind::filter_argument_error, "argument must be iterable");
  }
  std::vector<Value> items = collect(runtime, input);
  std::reverse(items.begin(), items.end());
  if (is_reversible(input)) return make_iterator(runtime, std::move(items), "list_reverseiterator");
  return runtime.list(std::move(items));
}

// A comma-separated attribute sorts by several keys.
Value sort_key(Runtime& runtime, const Value& item, const KeyRule& rule) {
  std::vector<Value> keys;
  const auto parts = split(rule.attribute.as_string(), ",", -1);
  for (const std::string_view part : parts) {
    KeyRule single = rule;
    single.attribute = runtime.string(std::string(part));
    if (runtime.failed()) return Value();
    keys.push_back(single.key(runtime, item));
  }
  return runtime.list(std::move(keys));
}

Value filter_sort(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound =
      bind_arguments(runtime, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  KeyRule rule;
  rule.case_sensitive = flag_argument(runtime, bound[1], false);
  rule.attribute = bound[2];
  std::vector<KeyedItem> keyed;
  for (const Value& item : collect(runtime, input)) {
    if (!runtime.step()) return Value();
    keyed.push_back(KeyedItem{
        rule.attribute.is_string() ? sort_key(runtime, item, rule) : rule.key(runtime, item),
        item});
  }
  if (runtime.failed()) return Value();
  sort_keyed(runtime, keyed, flag_argument(runtime, bound[0], false));
  return runtime.list(items_of(keyed));
}

Value filter_unique(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "unique", arguments, {"case_sensitive", "attribute"});
  KeyRule rule;
  rule.case_sensitive = flag_argument(runtime, bound[0], false);
  rule.attribute = bound[1];
  DictData seen;
  std::vector<Value> out;
  for (const Value& item : collect(runtime, input)) {
    if (!runtime.step()) return Value();
    const Value key = rule.key(runtime, item);
    if (!is_hashable(key)) {
      return runtime.fail(ErrorKind::type_error,
                          fmt::format("unhashable type: '{}'", type_name(key)));
    }
    if (seen.find(key) != nullptr) continue;
    seen.set(key, Value());
    out.push_back(item);
  }
  return make_iterator(runtime, std::move(out));
}

Value extreme(Runtime& runtime, const char* name, const Value& input,
              const CallArguments& arguments, Comparison wins) {
  const auto bound = bind_arguments(runtime, name, arguments, {"case_sensitive", "attribute"});
  KeyRule rule;
  rule.case_sensitive = flag_argument(runtime, bound[0], false);
  rule.attribute = bound[1];
  const auto keyed = with_keys(runtime, collect(runtime, input), rule);
  if (runtime.failed()) return Value();
  if (keyed.empty()) return runtime.undefined("No aggregated item, sequence was empty.");
  const KeyedItem* best = &keyed.front();
  for (const KeyedItem& candidate : keyed) {
    if (&candidate != best && ordered(runtime, wins, candidate.key, best->key)) best = &candidate;
  }
  return best->item;
}

Value filter_min(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return extreme(runtime, "min", input, arguments, Comparison::less);
}

Value filter_max(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  return extreme(runtime, "max", input, arguments, Comparison::greater);
}

Value filter_sum(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "sum", arguments, {"attribute", "start"});
  Value total = bound[1].is_missing() ? Value::integer(0) : bound[1];
  if (total.is_string()) {
    return runtime.fail(ErrorKind::type_error,
                        "sum() can't sum strings [use ''.join(seq) instead]");
  }
  const bool has_attribute = !bound[0].is_missing() && !bound[0].is_none();
  for (const Value& item : collect(runtime, input)) {
    const Value value = has_attribute ? attribute_path(runtime, item, bound[0]) : item;
    if (runtime.failed()) return Value();
    total = binary(runtime, BinaryOperator::add, total, value);
  }
  return total;
}

Value filter_groupby(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound =
      bind_arguments(runtime, "groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  KeyRule rule;
  rule.attribute = bound[0];
  rule.fallback = bound[1].is_none() ? Value::missing() : bound[1];
  rule.case_sensitive = flag_argument(runtime, bound[2], false);
  if (runtime.failed()) return Value();
  auto keyed = with_keys(runtime, collect(runtime, input), rule);
  sort_keyed(runtime, keyed, false);
  std::vector<Value> groups;
  for (size_t i = 0; i < keyed.size() && !runtime.failed();) {
    std::vector<Value> members;
    const size_t start = i;
    while (i < keyed.size() && equal(runtime, keyed[i].key, keyed[start].key)) {
      members.push_back(keyed[i++].item);
    }
    if (i == start) members.push_back(keyed[i++].item);  // NaN is unequal to itself
    KeyRule exact = rule;
    exact.case_sensitive = true;
    const Value grouper = exact.key(runtime, members.front());
    groups.push_back(runtime.group(grouper, runtime.list(std::move(members))));
  }
  return runtime.failed() ? Value() : runtime.list(std::move(groups));
}

Value filter_dictsort(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound =
      bind_arguments(runtime, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = bound[1].is_missing() ? "key" : text_argument(runtime, bound[1]);
  if (by != "key" && by != "value") {
    return runtime.fail(ErrorKind::filter_argument_error,
                        "You can only sort by either \"key\" or \"value\"");
  }
  if (!input.is_dict()) {
    if (input.is_undefined()) return runtime.fail_undefined(input);
    return runtime.fail(ErrorKind::undefined_error,
                        fmt::format("'{} object' has no attribute 'items'", type_name(input)));
  }
  const bool case_sensitive = flag_argument(runtime, bound[0], false);
  std::vector<KeyedItem> keyed;
  for (const auto& entry : input.as_dict().entries()) {
    const Value& chosen = by == "key" ? entry.key : entry.value;
    keyed.push_back(KeyedItem{case_sensitive ? chosen : ignore_case(runtime, chosen),
                              runtime.tuple({entry.key, entry.value})});
    if (runtime.failed()) return Value();
  }
  sort_keyed(runtime, keyed, flag_argument(runtime, bound[2], false));
  return runtime.list(items_of(keyed));
}

Value filter_items(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "items", arguments)) return Value();
  std::vector<Value> out;
  if (input.is_dict()) {
    for (const auto& entry : input.as_dict().entries()) {
      if (!runtime.step()) return Value();
      out.push_back(runtime.tuple({entry.key, entry.value}));
    }
  } else if (!input.is_undefined()) {
    return runtime.fail(ErrorKind::type_error, "Can only get item pairs from a mapping.");
  }
  return make_iterator(runtime, std::move(out));
}

Value filter_batch(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = runtime.failed() ? 1 : integer_argument(runtime, bound[0]);
  const bool fills = !bound[1].is_missing() && !bound[1].is_none();
  std::vector<Value> out;
  std::vector<Value> row;
  for (const Value& item : collect(runtime, input)) {
    if (static_cast<int64_t>(row.size()) == size) {
      out.push_back(runtime.list(std::move(row)));
      row.clear();
    }
    row.push_back(item);
  }
  if (!row.empty()) {
    while (fills && static_cast<int64_t>(row.size()) < size && runtime.step()) {
      row.push_back(bound[1]);
    }
    out.push_back(runtime.list(std::move(row)));
  }
  return make_iterator(runtime, std::move(out));
}

Value filter_slice(Runtime& runtime, const Value& input, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "slice", arguments, {"slices", "fill_with"}, 1);
  const int64_t slices = runtime.failed() ? 1 : integer_argument(runtime, bound[0]);
  const bool fills = !bound[1].is_missing() && !bound[1].is_none();
  const std::vector<Value> items = collect(runtime, input);
  if (slices == 0) {
    runtime.fail(ErrorKind::zero_division_error, "integer division or modulo by zero");
  }
  if (runtime.failed()) return Value();
  const auto length = static_cast<int64_t>(items.size());
  std::vector<Value> out;
  int64_t start = 0;
  for (int64_t i = 0; i < slices && runtime.step(); ++i) {
    const bool is_longer = i < length % slices;
    const int64_t end = start + length / slices + (is_longer ? 1 : 0);
    std::vector<Value> part(items.begin() + start, items.begin() + end);
    if (fills && !is_longer) part.push_back(bound[1]);
    out.push_back(runtime.list(std::move(part)));
    start = end;
  }
  return make_iterator(runtime, std::move(out));
}

constexpr FilterEntry kFilters[] = {
    {"batch", filter_batch},   {"count", filter_length},    {"dictsort", filter_dictsort},
    {"first", filter_first},   {"groupby", filter_groupby}, {"items", filter_items},
    {"last", filter_last},     {"length", filter_length},   {"list", filter_list},
    {"max", filter_max},       {"min", filter_min},         {"reverse", filter_reverse},
    {"slice", filter_slice},   {"sort", filter_sort},       {"sum", filter_sum},
    {"unique", filter_unique},
};

}  // namespace

std::span<const FilterEntry> sequence_filters() {
  return kFilters;
}

}  // namespace nibble::tokenizer::jinja
