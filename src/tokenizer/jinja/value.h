// Values of the Jinja interpreter: Python's types as far as templates can see them.
//
// Strings, lists, tuples and dicts are immutable once made and shared by reference count, so no
// cycle can form among them. Everything with state or closures (namespaces, macros, loops,
// iterators) is an Object, owned by the Runtime and only pointed to here: a Value must not outlive
// the render that made it (constants of the syntax tree hold no Object).
#pragma once

#include "tokenizer/jinja/error.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace nibble::tokenizer::jinja {

class Runtime;
class Value;
struct BigInteger;  // integer.cc

/// In the order of Value's variant.
enum class ValueKind : uint8_t {
  undefined,
  none,
  boolean,
  integer,
  big_integer,
  floating,
  string,
  list,
  tuple,
  dict,
  object,
};

/// What an undefined value says when it is used. A null pointer instead of this marks "no argument
/// given".
struct UndefinedData {
  std::string message;
  ErrorKind kind = ErrorKind::undefined_error;
};

struct StringData {
  std::string text;  // valid UTF-8
  bool is_markup = false;  // made by |safe or |escape: + and % escape what is added to it
};

struct SequenceData {
  std::vector<Value> items;
  int depth =
      1;  // nesting below, bounded by Runtime::list so that recursion over values is bounded
  bool is_group = false;  // a groupby result: .grouper and .list are its two items
};

class DictData;

struct CallArguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> keywords;
};

/// A stateful or callable value. The defaults are those of an opaque Python object.
class Object {
 public:
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() = default;

  virtual std::string type_name() const = 0;
  virtual void repr(Runtime& runtime, std::string& out) const;
  virtual bool truthy(Runtime& runtime);
  /// len(): nothing when the type has none.
  virtual std::optional<int64_t> length(Runtime& runtime);
  virtual bool is_iterable() const { return false; }
  virtual bool is_reversible() const { return false; }
  virtual bool is_callable() const { return false; }
  /// Appends the elements; an iterator is consumed.
  virtual void collect(Runtime& runtime, std::vector<Value>& out);
  virtual Value call(Runtime& runtime, const CallArguments& arguments);
  /// A missing Value when there is no such attribute / element.
  virtual Value attribute(Runtime& runtime, std::string_view name);
  virtual Value element(Runtime& runtime, const Value& key);
  virtual bool equals(Runtime& runtime, const Object& other) const;
};

class Value {
 public:
  using Undefined = std::shared_ptr<const UndefinedData>;
  using Big = std::shared_ptr<const BigInteger>;
  using String = std::shared_ptr<const StringData>;
  using Sequence = std::shared_ptr<const SequenceData>;
  using Dict = std::shared_ptr<const DictData>;

  /// None.
  Value() : data_(std::in_place_index<1>) {}
  static Value missing() { return undefined(nullptr); }
  static Value undefined(Undefined data) { return make<0>(std::move(data)); }
  static Value boolean(bool value) { return make<2>(value); }
  static Value integer(int64_t value) { return make<3>(value); }
  static Value big_integer(Big value) { return make<4>(std::move(value)); }
  static Value floating(double value) { return make<5>(value); }
  static Value string(String value) { return make<6>(std::move(value)); }
  static Value list(Sequence value) { return make<7>(std::move(value)); }
  static Value tuple(Sequence value) { return make<8>(std::move(value)); }
  static Value dict(Dict value) { return make<9>(std::move(value)); }
  static Value object(Object* value) { return make<10>(value); }

  ValueKind kind() const { return static_cast<ValueKind>(data_.index()); }
  bool is(ValueKind wanted) const { return kind() == wanted; }
  bool is_missing() const { return is(ValueKind::undefined) && *std::get_if<0>(&data_) == nullptr; }
  bool is_undefined() const { return is(ValueKind::undefined); }
  bool is_none() const { return is(ValueKind::none); }
  bool is_string() const { return is(ValueKind::string); }
  bool is_dict() const { return is(ValueKind::dict); }
  bool is_sequence() const { return is(ValueKind::list) || is(ValueKind::tuple); }
  /// int or bool, of any size.
  bool is_integral() const {
    return is(ValueKind::integer) || is(ValueKind::boolean) || is(ValueKind::big_integer);
  }
  bool is_number() const { return is_integral() || is(ValueKind::floating); }

  // Each of these requires the kind it names; as_integer also takes a boolean. Only these two,
  // which meet the None of a failed render most often, tolerate other kinds: as_integer says 0,
  // as_string is empty.
  const UndefinedData& as_undefined() const { return **std::get_if<0>(&data_); }
  bool as_boolean() const { return *std::get_if<2>(&data_); }
  int64_t as_integer() const;
  const BigInteger& as_big_integer() const { return **std::get_if<4>(&data_); }
  double as_floating() const { return *std::get_if<5>(&data_); }
  const std::string& as_string() const;
  bool is_markup() const { return is_string() && (*std::get_if<6>(&data_))->is_markup; }
  const SequenceData& as_sequence() const;
  const DictData& as_dict() const { return **std::get_if<9>(&data_); }
  Object& as_object() const { return **std::get_if<10>(&data_); }

  /// Python's `is`, as far as it can be observed: same object, or equal small immutable value.
  bool same_as(const Value& other) const;

 private:
  using Data = std::variant<Undefined, std::monostate, bool, int64_t, Big, double, String, Sequence,
                            Sequence, Dict, Object*>;
  template <size_t kIndex, typename T>
  static Value make(T value) {
    Value result;
    result.data_.emplace<kIndex>(std::move(value));
    return result;
  }

  Data data_;
};

/// Keys in insertion order. Keys are hashable values; equal keys (1, 1.0, true) are one key.
class DictData {
 public:
  struct Entry {
    Value key;
    Value value;
  };

  const std::vector<Entry>& entries() const { return entries_; }
  size_t size() const { return entries_.size(); }
  /// Nesting below, as in SequenceData.
  int depth() const { return depth_; }

  /// Null when absent. The key must be hashable.
  const Value* find(std::string_view key) const;
  const Value* find(const Value& key) const;
  /// Inserts, or replaces the value of an equal key (which keeps its place). The key must be
  /// hashable.
  void set(const Value& key, Value value);

 private:
  ptrdiff_t index_of(const Value& key, uint64_t hash) const;

  std::vector<Entry> entries_;
  std::vector<uint64_t> hashes_;  // of entries_[i].key
  std::unordered_multimap<uint64_t, size_t> index_;  // filled beyond kLinearKeys entries
  int depth_ = 1;
};

/// Nesting of a container value, 0 for everything else.
int nesting_depth(const Value& value);

/// Python's hash equality class of a key; false when the type is unhashable.
bool is_hashable(const Value& value);

}  // namespace nibble::tokenizer::jinja
