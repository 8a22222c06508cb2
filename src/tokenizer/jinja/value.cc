// Value equality for keys, dictionaries, and what an Object does by default.
#include "tokenizer/jinja/value.h"

#include "tokenizer/jinja/integer.h"
#include "tokenizer/jinja/runtime.h"

#include <algorithm>
#include <cmath>
#include <functional>

namespace nibble::tokenizer::jinja {
namespace {

constexpr size_t kLinearKeys = 8;
constexpr uint64_t kMix = 0x9E3779B97F4A7C15ull;

uint64_t hash_key(const Value& key) {
  switch (key.kind()) {
    case ValueKind::string:
      return std::hash<std::string>()(key.as_string());
    case ValueKind::boolean:
    case ValueKind::integer:
    case ValueKind::big_integer:
      return integer_hash(key);
    case ValueKind::floating:
      return std::hash<double>()(key.as_floating());
    case ValueKind::tuple: {
      uint64_t hash = kMix;
      for (const Value& item : key.as_sequence().items) hash = hash * kMix + hash_key(item);
      return hash;
    }
    case ValueKind::object:
      return std::hash<const void*>()(&key.as_object());
    default:
      return static_cast<uint64_t>(key.kind());
  }
}

bool equal_numbers(const Value& a, const Value& b) {
  if (a.is(ValueKind::floating) && b.is(ValueKind::floating)) {
    return a.as_floating() == b.as_floating();
  }
  if (a.is(ValueKind::floating)) {
    return !std::isnan(a.as_floating()) && integer_compare(b, a.as_floating()) == 0;
  }
  if (b.is(ValueKind::floating)) {
    return !std::isnan(b.as_floating()) && integer_compare(a, b.as_floating()) == 0;
  }
  return integer_compare(a, b) == 0;
}

// Equality of hashable values only; nesting is bounded by kMaxNesting.
bool equal_keys(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return equal_numbers(a, b);
  if (a.kind() != b.kind()) return false;
  if (a.is_string()) return a.as_string() == b.as_string();
  if (a.is(ValueKind::tuple)) {
    const auto& x = a.as_sequence().items;
    const auto& y = b.as_sequence().items;
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), equal_keys);
  }
  if (a.is(ValueKind::object)) return &a.as_object() == &b.as_object();
  return true;
}

}  // namespace

int64_t Value::as_integer() const {
  if (is(ValueKind::boolean)) return as_boolean() ? 1 : 0;
  return is(ValueKind::integer) ? *std::get_if<3>(&data_) : 0;
}

const std::string& Value::as_string() const {
  static const std::string kEmpty;
  return is(ValueKind::string) ? (*std::get_if<6>(&data_))->text : kEmpty;
}

const SequenceData& Value::as_sequence() const {
  return is(ValueKind::list) ? **std::get_if<7>(&data_) : **std::get_if<8>(&data_);
}

bool Value::same_as(const Value& other) const {
  if (kind() != other.kind()) return false;
  switch (kind()) {
    case ValueKind::undefined:
      return *std::get_if<0>(&data_) == *std::get_if<0>(&other.data_);
    case ValueKind::none:
      return true;
    case ValueKind::boolean:
      return as_boolean() == other.as_boolean();
    case ValueKind::integer:
      return as_integer() == other.as_integer();
    case ValueKind::string:
      // Python shares literals and one-character strings; no other equal strings.
      return *std::get_if<6>(&data_) == *std::get_if<6>(&other.data_) ||
             (as_string() == other.as_string() && as_string().size() <= 1);
    case ValueKind::list:
    case ValueKind::tuple:
      return &as_sequence() == &other.as_sequence();
    case ValueKind::dict:
      return &as_dict() == &other.as_dict();
    case ValueKind::object:
      return &as_object() == &other.as_object();
    default:
      return false;
  }
}

const Value* DictData::find(std::string_view key) const {
  if (entries_.size() <= kLinearKeys) {
    for (const Entry& entry : entries_) {
      if (entry.key.is_string() && entry.key.as_string() == key) return &entry.value;
    }
    return nullptr;
  }
  const auto range = index_.equal_range(std::hash<std::string_view>()(key));
  for (auto it = range.first; it != range.second; ++it) {
    const Entry& entry = entries_[it->second];
    if (entry.key.is_string() && entry.key.as_string() == key) return &entry.value;
  }
  return nullptr;
}

const Value* DictData::find(const Value& key) const {
  const ptrdiff_t index = index_of(key, hash_key(key));
  return index < 0 ? nullptr : &entries_[static_cast<size_t>(index)].value;
}

ptrdiff_t DictData::index_of(const Value& key, uint64_t hash) const {
  if (entries_.size() <= kLinearKeys) {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (hashes_[i] == hash && equal_keys(entries_[i].key, key)) return static_cast<ptrdiff_t>(i);
    }
    return -1;
  }
  const auto range = index_.equal_range(hash);
  for (auto it = range.first; it != range.second; ++it) {
    if (equal_keys(entries_[it->second].key, key)) return static_cast<ptrdiff_t>(it->second);
  }
  return -1;
}

void DictData::set(const Value& key, Value value) {
  depth_ = std::max({depth_, nesting_depth(value) + 1, nesting_depth(key) + 1});
  const uint64_t hash = hash_key(key);
  const ptrdiff_t found = index_of(key, hash);
  if (found >= 0) {
    entries_[static_cast<size_t>(found)].value = std::move(value);
    return;
  }
  entries_.push_back(Entry{key, std::move(value)});
  hashes_.push_back(hash);
  if (entries_.size() == kLinearKeys + 1) {
    for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(hashes_[i], i);
  } else if (entries_.size() > kLinearKeys + 1) {
    index_.emplace(hash, entries_.size() - 1);
  }
}

int nesting_depth(const Value& value) {
  if (value.is_sequence()) return value.as_sequence().depth;
  if (value.is_dict()) return value.as_dict().depth();
  return 0;
}

bool is_hashable(const Value& value) {
  if (value.is(ValueKind::list) || value.is_dict()) return false;
  if (!value.is(ValueKind::tuple)) return true;
  const auto& items = value.as_sequence().items;
  return std::all_of(items.begin(), items.end(), is_hashable);
}

void Object::repr(Runtime&, std::string& out) const {
  out += "<" + type_name() + " object>";
}

bool Object::truthy(Runtime& runtime) {
  const auto count = length(runtime);
  return !count.has_value() || *count != 0;
}

std::optional<int64_t> Object::length(Runtime&) {
  return std::nullopt;
}

void Object::collect(Runtime& runtime, std::vector<Value>&) {
  runtime.fail(ErrorKind::type_error, "'" + type_name() + "' object is not iterable");
}

Value Object::call(Runtime& runtime, const CallArguments&) {
  return runtime.fail(ErrorKind::type_error, "'" + type_name() + "' object is not callable");
}

Value Object::attribute(Runtime&, std::string_view) {
  return Value::missing();
}

Value Object::element(Runtime&, const Value&) {
  return Value::missing();
}

bool Object::equals(Runtime&, const Object& other) const {
  return this == &other;
}

}  // namespace nibble::tokenizer::jinja
