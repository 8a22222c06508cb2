// The stateful values templates can hold apart from loops and macros: ranges, dict views,
// iterators, namespaces, cyclers, joiners and bound methods.
#pragma once

#include "tokenizer/jinja/builtins.h"
#include "tokenizer/jinja/runtime.h"
#include "tokenizer/jinja/value.h"

#include <string>
#include <vector>

namespace nibble::tokenizer::jinja {

/// range(): never materialised before it is iterated. The sandbox bounds its length.
class RangeObject : public Object {
 public:
  RangeObject(int64_t start, int64_t stop, int64_t step);

  int64_t size() const { return size_; }
  int64_t at(int64_t index) const { return start_ + index * step_; }
  int64_t step() const { return step_; }

  std::string type_name() const override { return "range"; }
  void repr(Runtime& runtime, std::string& out) const override;
  std::optional<int64_t> length(Runtime&) override { return size_; }
  bool is_iterable() const override { return true; }
  bool is_reversible() const override { return true; }
  void collect(Runtime& runtime, std::vector<Value>& out) override;
  Value element(Runtime& runtime, const Value& key) override;
  Value attribute(Runtime& runtime, std::string_view name) override;
  bool equals(Runtime& runtime, const Object& other) const override;

 private:
  int64_t start_;
  int64_t stop_;
  int64_t step_;
  int64_t size_ = 0;
};

enum class DictViewKind { keys, values, items };

class DictViewObject : public Object {
 public:
  DictViewObject(Value dict, DictViewKind kind) : dict_(std::move(dict)), kind_(kind) {}

  std::string type_name() const override;
  void repr(Runtime& runtime, std::string& out) const override;
  std::optional<int64_t> length(Runtime&) override {
    return static_cast<int64_t>(dict_.as_dict().size());
  }
  bool is_iterable() const override { return true; }
  bool is_reversible() const override { return true; }
  void collect(Runtime& runtime, std::vector<Value>& out) override;
  bool equals(Runtime& runtime, const Object& other) const override;

 private:
  Value dict_;
  DictViewKind kind_;
};

/// What lazy filters return: elements that can be taken once.
class IteratorObject : public Object {
 public:
  explicit IteratorObject(std::vector<Value> items, std::string type_name = "generator")
      : items_(std::move(items)), type_name_(std::move(type_name)) {}

  std::string type_name() const override { return type_name_; }
  bool is_iterable() const override { return true; }
  bool truthy(Runtime&) override { return true; }
  void collect(Runtime& runtime, std::vector<Value>& out) override;
  /// The next element, or missing.
  Value next();

 private:
  std::vector<Value> items_;
  std::string type_name_;
  size_t taken_ = 0;
};

class NamespaceObject : public Object {
 public:
  /// Fails for names that begin with an underscore.
  void set(Runtime& runtime, const std::string& name, Value value);

  std::string type_name() const override { return "TemplateNamespace"; }
  void repr(Runtime& runtime, std::string& out) const override;
  Value attribute(Runtime& runtime, std::string_view name) override;

 private:
  DictData attributes_;
};

class CyclerObject : public Object {
 public:
  explicit CyclerObject(std::vector<Value> items) : items_(std::move(items)) {}

  std::string type_name() const override { return "Cycler"; }
  Value attribute(Runtime& runtime, std::string_view name) override;
  Value next();
  void reset() { position_ = 0; }

 private:
  std::vector<Value> items_;
  size_t position_ = 0;
};

class JoinerObject : public Object {
 public:
  explicit JoinerObject(Value separator) : separator_(std::move(separator)) {}

  std::string type_name() const override { return "Joiner"; }
  bool is_callable() const override { return true; }
  Value call(Runtime& runtime, const CallArguments& arguments) override;

 private:
  Value separator_;
  bool used_ = false;
};

/// A function with its first argument bound.
class MethodObject : public Object {
 public:
  MethodObject(MethodEntry method, Value self) : method_(method), self_(std::move(self)) {}

  std::string type_name() const override { return "builtin_function_or_method"; }
  bool is_callable() const override { return true; }
  Value call(Runtime& runtime, const CallArguments& arguments) override {
    return method_.function(runtime, self_, arguments);
  }
  Value attribute(Runtime& runtime, std::string_view name) override;

 private:
  MethodEntry method_;
  Value self_;
};

}  // namespace nibble::tokenizer::jinja
