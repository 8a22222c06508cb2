// FakeEngine: an Engine without a model, driven by the test or by a script.
//
// Events come from the fake's own thread, as with the real one, in the order they were ordered.
// Manual: the test waits for a request, then orders deltas and the end. Scripted: every request is
// answered with the same pieces of text. A cancelled request ends once, with FinishReason
// cancelled. Nothing here sleeps; waiting has a deadline only so that a broken test ends.
#pragma once

#include "runtime/engine.h"

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace nibble::test {

class FakeEngine : public runtime::Engine {
 public:
  FakeEngine();
  ~FakeEngine() override;

  // Engine.
  Result<runtime::RequestId> submit(runtime::Request request,
                                    std::shared_ptr<runtime::EventSink> sink) override;
  void cancel(runtime::RequestId id) override;
  runtime::EngineStats stats() const override;
  const runtime::EngineLimits& limits() const override { return limits_; }
  void drain(double timeout_seconds) override;

  /// Set before requests come.
  runtime::EngineLimits& mutable_limits() { return limits_; }
  /// From now on every request gets these deltas, one token each, and finishes with stop.
  void answer_with(std::vector<std::string> pieces);
  /// From now on submit() fails with this.
  void refuse_with(Error error);

  /// Blocks until `count` requests were accepted in all; false after 30 s.
  bool wait_for_requests(size_t count);
  /// Blocks until that many requests were ended by cancel(); false after 30 s.
  bool wait_for_cancelled(size_t count);
  /// Blocks until every accepted request has ended; false after 30 s.
  bool wait_for_idle();
  /// The request with that number, counted from 0 in order of acceptance; id is number + 1.
  runtime::Request request(size_t number) const;
  size_t num_cancelled() const;
  /// Accepted requests without a terminal event.
  size_t num_active() const;

  // Orders; no effect on a request that has ended.
  void delta(size_t number, const std::string& text);
  void delta(size_t number, runtime::Delta delta);
  void finish(size_t number, runtime::FinishReason reason = runtime::FinishReason::stop);
  void finish(size_t number, runtime::Finish finish);

 private:
  struct Entry {
    runtime::Request request;
    std::shared_ptr<runtime::EventSink> sink;
    int32_t completion_tokens = 0;
    bool is_finished = false;
  };

  size_t count_active() const;  // with the lock
  void loop();
  void order(std::function<void()> task);
  void send(size_t number, const runtime::Delta& delta);
  void end(size_t number, runtime::Finish finish);

  runtime::EngineLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  std::deque<Entry> entries_;
  std::vector<std::string> script_;
  std::vector<Error> refusal_;  // empty or one
  size_t num_cancelled_ = 0;
  bool is_scripted_ = false;
  bool is_stopping_ = false;
  std::thread thread_;
};

}  // namespace nibble::test
