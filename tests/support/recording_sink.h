// For tests only: an EventSink that keeps what it hears and aborts if the order of events is
// broken.
#pragma once

#include "base/check.h"
#include "runtime/request.h"

#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace nibble::runtime {

class RecordingSink final : public EventSink {
 public:
  void on_delta(RequestId id, const Delta& delta) override {
    const std::lock_guard lock(mutex_);
    NIBBLE_CHECK(!finish_, "a delta after the terminal event", id);
    NIBBLE_CHECK(!delta.tokens.empty() || !delta.text.empty(), "an empty delta", id);
    text_ += delta.text;
    tokens_.insert(tokens_.end(), delta.tokens.begin(), delta.tokens.end());
    logprobs_.insert(logprobs_.end(), delta.logprobs.begin(), delta.logprobs.end());
    changed_.notify_all();
  }

  void on_finish(RequestId id, const Finish& finish) override {
    const std::lock_guard lock(mutex_);
    NIBBLE_CHECK(!finish_, "a second terminal event", id);
    finish_ = finish;
    changed_.notify_all();
  }

  void wait_for_finish() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return finish_.has_value(); });
  }
  void wait_for_tokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return finish_.has_value() || tokens_.size() >= count; });
  }

  bool has_finished() const {
    const std::lock_guard lock(mutex_);
    return finish_.has_value();
  }
  Finish finish() const {
    const std::lock_guard lock(mutex_);
    NIBBLE_CHECK(finish_.has_value(), "not finished");
    return *finish_;
  }
  std::string text() const {
    const std::lock_guard lock(mutex_);
    return text_;
  }
  std::vector<int32_t> tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  std::vector<TokenLogprob> logprobs() const {
    const std::lock_guard lock(mutex_);
    return logprobs_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::string text_;
  std::vector<int32_t> tokens_;
  std::vector<TokenLogprob> logprobs_;
  std::optional<Finish> finish_;
};

}  // namespace nibble::runtime
