// Global functions: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/objects.h"
#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

#include <ctime>

namespace nibble::tokenizer::jinja {
namespace {

constexpr int64_t kMaxRange = 100000;  // the reference sandbox's own limit

Value global_range(Runtime& runtime, const Value&, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "range", arguments, {"a", "b", "c"}, 1);
  if (!arguments.keywords.empty()) {
    return runtime.fail(ErrorKind::type_error, "range() takes no keyword arguments");
  }
  if (runtime.failed()) return Value();
  const bool has_start = !bound[1].is_missing();
  const int64_t start = has_start ? integer_argument(runtime, bound[0]) : 0;
  const int64_t stop = integer_argument(runtime, has_start ? bound[1] : bound[0]);
  const int64_t step = integer_argument(runtime, bound[2], 1);
  if (runtime.failed()) return Value();
  if (step == 0) return runtime.fail(ErrorKind::value_error, "range() arg 3 must not be zero");
  constexpr int64_t kFar = int64_t{1} << 61;
  const auto is_far = [](int64_t value) { return value > kFar || value < -kFar; };
  auto* range = runtime.create<RangeObject>(start, stop, step);
  if (range->size() > kMaxRange || is_far(start) || is_far(stop) || is_far(step)) {
    return runtime.fail(ErrorKind::overflow_error,
                        "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  }
  return Value::object(range);
}

// dict(*args, **kwargs): one mapping or iterable of pairs, then keywords.
bool fill_dict(Runtime& runtime, const CallArguments& arguments, DictData& data) {
  if (arguments.positional.size() > 1) {
    runtime.fail(ErrorKind::type_error, fmt::format("dict expected at most 1 argument, got {}",
                                                    arguments.positional.size()));
  }
  if (!arguments.positional.empty() && !runtime.failed()) {
    const Value& source = arguments.positional[0];
    if (source.is_dict()) {
      data = source.as_dict();
    } else {
      for (const Value& item : collect(runtime, source)) {
        if (!runtime.step()) return false;
        const auto pair = collect(runtime, item);
        if (runtime.failed()) return false;
        if (pair.size() != 2) {
          runtime.fail(ErrorKind::value_error,
                       fmt::format("dictionary update sequence element has length {}; 2 is "
                                   "required",
                                   pair.size()));
          return false;
        }
        if (!is_hashable(pair[0])) {
          runtime.fail(ErrorKind::type_error,
                       fmt::format("unhashable type: '{}'", type_name(pair[0])));
          return false;
        }
        data.set(pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.keywords) data.set(runtime.string(name), value);
  return !runtime.failed();
}

Value global_dict(Runtime& runtime, const Value&, const CallArguments& arguments) {
  DictData data;
  return fill_dict(runtime, arguments, data) ? runtime.dict(std::move(data)) : Value();
}

Value global_namespace(Runtime& runtime, const Value&, const CallArguments& arguments) {
  DictData data;
  if (!fill_dict(runtime, arguments, data)) return Value();
  auto* object = runtime.create<NamespaceObject>();
  for (const auto& entry : data.entries()) {
    if (entry.key.is_string()) object->set(runtime, entry.key.as_string(), entry.value);
  }
  return Value::object(object);
}

Value global_cycler(Runtime& runtime, const Value&, const CallArguments& arguments) {
  if (!arguments.keywords.empty()) {
    return runtime.fail(ErrorKind::type_error, "cycler() got an unexpected keyword argument");
  }
  if (arguments.positional.empty()) {
    return runtime.fail(ErrorKind::runtime_error, "at least one item has to be provided");
  }
  return Value::object(runtime.create<CyclerObject>(arguments.positional));
}

Value global_joiner(Runtime& runtime, const Value&, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "joiner", arguments, {"sep"});
  const Value separator = bound[0].is_missing() ? runtime.string(", ") : bound[0];
  return Value::object(runtime.create<JoinerObject>(separator));
}

Value global_raise_exception(Runtime& runtime, const Value&, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "raise_exception", arguments, {"message"}, 1);
  if (runtime.failed()) return Value();
  return runtime.fail(ErrorKind::template_error, to_text(runtime, bound[0]));
}

Value global_strftime_now(Runtime& runtime, const Value&, const CallArguments& arguments) {
  const auto bound = bind_arguments(runtime, "strftime_now", arguments, {"format"}, 1);
  const std::string format = text_argument(runtime, bound[0]);
  if (runtime.failed()) return Value();
  if (format.size() > 1000) {
    return runtime.fail(ErrorKind::limit_error, "strftime_now: format too long");
  }
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  // A trailing byte tells an empty result from a full buffer.
  std::string buffer(16384, '\0');
  const size_t length = std::strftime(buffer.data(), buffer.size(), (format + "|").c_str(), &local);
  if (length == 0) return runtime.fail(ErrorKind::value_error, "strftime_now: Invalid format");
  buffer.resize(length - 1);
  return runtime.string(std::move(buffer));
}

constexpr MethodEntry kGlobals[] = {
    {"cycler", global_cycler},
    {"dict", global_dict},
    {"joiner", global_joiner},
    {"namespace", global_namespace},
    {"raise_exception", global_raise_exception},
    {"range", global_range},
    {"strftime_now", global_strftime_now},
};

}  // namespace

Value make_global(Runtime& runtime, std::string_view name) {
  for (const MethodEntry& entry : kGlobals) {
    if (entry.name == name) return make_method(runtime, entry, Value());
  }
  return Value::missing();
}

}  // namespace nibble::tokenizer::jinja
