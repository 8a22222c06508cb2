// The state of one render: limits, the first failure, and the owner of every Object.
//
// Functions that can fail call fail() and return what it returns; callers go on with harmless
// values and leave as soon as failed() is seen. Loops over template-controlled sizes must call
// step() or charge(), or a hostile template could run for ever. One thread only.
#pragma once

#include "tokenizer/jinja/value.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nibble::tokenizer::jinja {

/// Far above what a chat template needs, far below what hurts a server.
struct Limits {
  uint64_t max_steps = 20'000'000;  // evaluated nodes and visited elements
  size_t max_output_bytes = size_t{64} << 20;
  size_t max_made_bytes = size_t{1} << 30;  // bytes of all strings and containers ever made
  int max_depth = 1000;  // nested evaluations, macro calls included
};

/// Containers may not nest deeper than this (Python's own printing stops near 1000).
inline constexpr int kMaxNesting = 200;

class Runtime {
 public:
  explicit Runtime(const Limits& limits) : limits_(limits) {}

  const Limits& limits() const { return limits_; }
  bool failed() const { return failed_; }
  const JinjaError& error() const { return error_; }

  /// Records a failure unless one is recorded already. Returns None, for `return
  /// runtime.fail(...)`.
  Value fail(ErrorKind kind, std::string message);
  /// Fails as any use of this undefined value does.
  Value fail_undefined(const Value& undefined);
  /// Gives the failure its place, once: the innermost caller wins.
  void locate(Position position);

  /// Counts work; false when the render has failed (also by running out of steps).
  bool step(uint64_t count = 1);
  /// Counts bytes about to be made; false when the render has failed.
  bool charge(size_t bytes);

  Value string(std::string text, bool is_markup = false);
  Value list(std::vector<Value> items);
  Value tuple(std::vector<Value> items);
  Value group(Value grouper, Value items);
  Value dict(DictData data);
  Value undefined(std::string message, ErrorKind kind = ErrorKind::undefined_error);

  template <typename T, typename... Arguments>
  T* create(Arguments&&... arguments) {
    charge(sizeof(T) + 64);
    auto owned = std::make_unique<T>(std::forward<Arguments>(arguments)...);
    T* object = owned.get();
    objects_.push_back(std::move(owned));
    return object;
  }

  /// Held while descending; failed() turns true when the depth limit is passed.
  class Descent {
   public:
    explicit Descent(Runtime& runtime);
    ~Descent() { --runtime_.depth_; }
    Descent(const Descent&) = delete;
    Descent& operator=(const Descent&) = delete;

   private:
    Runtime& runtime_;
  };

 private:
  Value::Sequence sequence(std::vector<Value> items, bool is_group);

  Limits limits_;
  bool failed_ = false;
  JinjaError error_;
  uint64_t steps_ = 0;
  size_t made_bytes_ = 0;
  int depth_ = 0;
  std::vector<std::unique_ptr<Object>> objects_;
};

}  // namespace nibble::tokenizer::jinja
