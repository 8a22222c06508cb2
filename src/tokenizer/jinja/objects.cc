// Ranges, dict views, iterators, namespaces, cyclers, joiners.
#include "tokenizer/jinja/objects.h"

#include "tokenizer/jinja/operators.h"
#include "tokenizer/jinja/printing.h"

#include <fmt/format.h>

namespace nibble::tokenizer::jinja {

RangeObject::RangeObject(int64_t start, int64_t stop, int64_t step)
    : start_(start), stop_(stop), step_(step) {
  // 128 bits: the distance of two int64 does not fit into one.
  const __int128 distance =
      step > 0 ? static_cast<__int128>(stop) - start : static_cast<__int128>(start) - stop;
  const __int128 stride = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 count = distance <= 0 ? 0 : (distance + stride - 1) / stride;
  size_ = count > INT64_MAX ? INT64_MAX : static_cast<int64_t>(count);
}

void RangeObject::repr(Runtime&, std::string& out) const {
  out += step_ == 1 ? fmt::format("range({}, {})", start_, stop_)
                    : fmt::format("range({}, {}, {})", start_, stop_, step_);
}

void RangeObject::collect(Runtime& runtime, std::vector<Value>& out) {
  if (!runtime.step(static_cast<uint64_t>(size_))) return;
  for (int64_t i = 0; i < size_; ++i) out.push_back(Value::integer(at(i)));
}

Value RangeObject::element(Runtime&, const Value& key) {
  if (!key.is(ValueKind::integer) && !key.is(ValueKind::boolean)) return Value::missing();
  const int64_t index = key.as_integer() < 0 ? key.as_integer() + size_ : key.as_integer();
  return index < 0 || index >= size_ ? Value::missing() : Value::integer(at(index));
}

Value RangeObject::attribute(Runtime&, std::string_view name) {
  if (name == "start") return Value::integer(start_);
  if (name == "stop") return Value::integer(stop_);
  if (name == "step") return Value::integer(step_);
  return Value::missing();
}

bool RangeObject::equals(Runtime&, const Object& other) const {
  const auto* range = dynamic_cast<const RangeObject*>(&other);
  if (range == nullptr || range->size_ != size_) return false;
  return size_ == 0 || (range->start_ == start_ && (size_ == 1 || range->step_ == step_));
}

std::string DictViewObject::type_name() const {
  switch (kind_) {
    case DictViewKind::keys:
      return "dict_keys";
    case DictViewKind::values:
      return "dict_values";
    case DictViewKind::items:
      return "dict_items";
  }
  return "";
}

void DictViewObject::repr(Runtime& runtime, std::string& out) const {
  out += type_name() + "([";
  bool is_first = true;
  for (const auto& entry : dict_.as_dict().entries()) {
    if (runtime.failed()) return;
    if (!is_first) out += ", ";
    is_first = false;
    if (kind_ == DictViewKind::keys) append_repr(runtime, entry.key, out);
    if (kind_ == DictViewKind::values) append_repr(runtime, entry.value, out);
    if (kind_ != DictViewKind::items) continue;
    append_repr(runtime, runtime.tuple({entry.key, entry.value}), out);
  }
  out += "])";
}

void DictViewObject::collect(Runtime& runtime, std::vector<Value>& out) {
  if (!runtime.step(dict_.as_dict().size())) return;
  for (const auto& entry : dict_.as_dict().entries()) {
    if (kind_ == DictViewKind::keys) out.push_back(entry.key);
    if (kind_ == DictViewKind::values) out.push_back(entry.value);
    if (kind_ == DictViewKind::items) out.push_back(runtime.tuple({entry.key, entry.value}));
  }
}

bool DictViewObject::equals(Runtime& runtime, const Object& other) const {
  const auto* view = dynamic_cast<const DictViewObject*>(&other);
  if (view == nullptr || kind_ == DictViewKind::values || view->kind_ != kind_) {
    return this == &other;
  }
  const DictData& mine = dict_.as_dict();
  const DictData& theirs = view->dict_.as_dict();
  if (mine.size() != theirs.size()) return false;
  for (const auto& entry : mine.entries()) {
    const Value* found = theirs.find(entry.key);
    if (found == nullptr || !runtime.step()) return false;
    if (kind_ == DictViewKind::items && !equal(runtime, entry.value, *found)) return false;
  }
  return true;
}

void IteratorObject::collect(Runtime& runtime, std::vector<Value>& out) {
  if (!runtime.step(items_.size() - taken_)) return;
  out.insert(out.end(), items_.begin() + static_cast<ptrdiff_t>(taken_), items_.end());
  taken_ = items_.size();
}

Value IteratorObject::next() {
  return taken_ < items_.size() ? items_[taken_++] : Value::missing();
}

void NamespaceObject::set(Runtime& runtime, const std::string& name, Value value) {
  if (!name.empty() && name[0] == '_') {
    std::string quoted;
    append_text_repr(name, quoted);
    runtime.fail(ErrorKind::security_error,
                 fmt::format("Chat templates cannot store underscore-prefixed attributes on a "
                             "namespace, but got {}. Please rename the attribute.",
                             quoted));
    return;
  }
  attributes_.set(runtime.string(name), std::move(value));
}

void NamespaceObject::repr(Runtime& runtime, std::string& out) const {
  out += "<Namespace ";
  append_repr(runtime, runtime.dict(attributes_), out);
  out += ">";
}

Value NamespaceObject::attribute(Runtime&, std::string_view name) {
  const Value* found = attributes_.find(name);
  return found == nullptr ? Value::missing() : *found;
}

Value CyclerObject::next() {
  const Value result = items_[position_];
  position_ = (position_ + 1) % items_.size();
  return result;
}

Value CyclerObject::attribute(Runtime& runtime, std::string_view name) {
  if (name == "current") return items_[position_];
  if (name == "pos") return Value::integer(static_cast<int64_t>(position_));
  if (name == "items") return runtime.tuple(items_);
  if (name == "next") {
    const auto next = [](Runtime& run, const Value& self, const CallArguments& arguments) {
      if (!expect_no_arguments(run, "Cycler.next", arguments)) return Value();
      return static_cast<CyclerObject&>(self.as_object()).next();
    };
    return make_method(runtime, MethodEntry{"next", next}, Value::object(this));
  }
  if (name == "reset") {
    const auto reset = [](Runtime& run, const Value& self, const CallArguments& arguments) {
      if (expect_no_arguments(run, "Cycler.reset", arguments)) {
        static_cast<CyclerObject&>(self.as_object()).reset();
      }
      return Value();
    };
    return make_method(runtime, MethodEntry{"reset", reset}, Value::object(this));
  }
  return Value::missing();
}

Value JoinerObject::call(Runtime& runtime, const CallArguments& arguments) {
  if (!expect_no_arguments(runtime, "Joiner.__call__", arguments)) return Value();
  if (std::exchange(used_, true)) return separator_;
  return runtime.string("");
}

Value MethodObject::attribute(Runtime& runtime, std::string_view name) {
  // The only global with methods of its own: str-like classes and `dict`.
  if (method_.name == "dict" && name == "fromkeys") {
    for (const MethodEntry& method : container_methods(ValueKind::dict)) {
      if (method.name == name) return make_method(runtime, method, Value());
    }
  }
  return Value::missing();
}

}  // namespace nibble::tokenizer::jinja
