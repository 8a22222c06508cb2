// The engine thread: takes arrivals from the inbox, runs the loop, keeps the counters.
#include "runtime/engine.h"

#include "base/check.h"
#include "base/log.h"
#include "runtime/engine_loop.h"
#include "runtime/request_check.h"
#include "runtime/request_inbox.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

namespace nibble::runtime {

StepCapacity step_capacity(const EngineLimits& limits) {
  StepCapacity capacity;
  capacity.rows =
      std::max(limits.max_num_batched_tokens, limits.max_num_seqs + device::kPageTokens);
  capacity.sequences = limits.max_num_seqs;
  capacity.pages_per_sequence = pages_for_tokens(limits.max_model_len);
  capacity.logit_rows = limits.max_num_seqs;
  return capacity;
}

namespace {

class ThreadedEngine final : public Engine {
 public:
  ThreadedEngine(Executor& executor, const tokenizer::Tokenizer& tokenizer,
                 const EngineLimits& limits)
      : limits_(limits),
        vocab_size_(executor.vocab_size()),
        inbox_(limits.max_num_queued_reqs),
        loop_(executor, tokenizer, limits) {
    keep_stats();
    thread_ = std::thread([this] { run(); });
  }

  ~ThreadedEngine() override {
    inbox_.stop();
    thread_.join();
  }

  Result<RequestId> submit(Request request, std::shared_ptr<EventSink> sink) override {
    NIBBLE_CHECK(sink != nullptr, "a request needs a sink");
    NIBBLE_RETURN_IF_ERROR(check_request(request, limits_, vocab_size_));
    return inbox_.push(std::move(request), std::move(sink));
  }

  void cancel(RequestId id) override { inbox_.cancel(id); }

  EngineStats stats() const override {
    const int64_t in_flight = inbox_.in_flight();
    const std::lock_guard lock(stats_mutex_);
    EngineStats stats = stats_;
    // Requests that the engine thread has not taken yet wait, too.
    stats.waiting = static_cast<int32_t>(std::max<int64_t>(0, in_flight - stats.running));
    return stats;
  }

  const EngineLimits& limits() const override { return limits_; }

  void drain(double timeout_seconds) override {
    inbox_.close();
    if (inbox_.wait_idle(timeout_seconds)) return;
    inbox_.cancel_all();
    inbox_.wait_idle();
  }

 private:
  void run() {
    try {
      serve();
    } catch (
        const std::exception& e) {  // only the allocator throws here, and nobody can go on then
      NIBBLE_CHECK(false, "exception on the engine thread", e.what());
    }
  }

  /// Returns when stop() was asked for and every request has heard its terminal event.
  void serve() {
    Arrivals arrivals;
    while (true) {
      inbox_.take(arrivals, loop_.is_idle());
      take_arrivals(arrivals);
      if (arrivals.cancel_all || arrivals.stop) loop_.cancel_all();
      if (has_failed_) loop_.fail_all(failure_);
      const Result<void> step = loop_.run_step();
      if (!step.ok()) fail(step.error().message);
      keep_stats();
      inbox_.finished(loop_.take_num_ended());
      if (arrivals.stop) return;
    }
  }

  void take_arrivals(Arrivals& arrivals) {
    for (Submission& submission : arrivals.submissions) loop_.accept(std::move(submission));
    for (const RequestId id : arrivals.cancels) loop_.cancel(id);
  }

  void fail(const std::string& message) {
    log_error("engine: " + message);
    has_failed_ = true;
    failure_ = message;
    inbox_.fail(message);
    loop_.fail_all(message);
  }

  void keep_stats() {
    const std::lock_guard lock(stats_mutex_);
    stats_ = loop_.stats();
    stats_.has_failed = has_failed_;
  }

  const EngineLimits limits_;
  const int32_t vocab_size_;
  RequestInbox inbox_;
  EngineLoop loop_;  // the engine thread's from here on, like the next two
  bool has_failed_ = false;
  std::string failure_;
  mutable std::mutex stats_mutex_;
  EngineStats stats_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<Engine> Engine::start(Executor& executor, const tokenizer::Tokenizer& tokenizer,
                                      const EngineLimits& limits) {
  return std::make_unique<ThreadedEngine>(executor, tokenizer, limits);
}

}  // namespace nibble::runtime
