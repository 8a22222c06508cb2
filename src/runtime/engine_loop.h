// The engine without its thread: one round of admit -> schedule -> prepare -> forward -> collect ->
// publish -> retire over all active requests.
//
// Used by one thread (engine.cc); tests drive it directly. The rules are CONTRACT.md.
#pragma once

#include "base/result.h"
#include "runtime/active_request.h"
#include "runtime/engine.h"
#include "runtime/executor.h"
#include "runtime/scheduler.h"

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace nibble::runtime {

class EngineLoop {
 public:
  /// executor and tokenizer outlive the loop.
  EngineLoop(Executor& executor, const tokenizer::Tokenizer& tokenizer, const EngineLimits& limits);

  /// Queues a checked request.
  void accept(Submission submission);
  /// Ends a request now, with its terminal event; unknown ids are ignored (it may have ended).
  void cancel(RequestId id);
  void cancel_all();
  /// Ends every request with this error.
  void fail_all(const std::string& message);

  bool is_idle() const { return requests_.empty(); }

  /// One step for whoever is ready; nothing when idle. An error is the executor's: the device is
  /// lost, and fail_all() must follow.
  Result<void> run_step();

  /// Requests that ended since the last call.
  size_t take_num_ended();
  EngineStats stats() const;
  void check_invariants();

 private:
  void admit();
  std::span<const ScheduledSequence> schedule();
  void prepare(std::span<const ScheduledSequence> parts);
  Result<void> forward();
  void collect(std::span<const ScheduledSequence> parts);
  void publish();
  void retire();

  ActiveRequest& request_of(const Sequence& sequence);
  void end_now(ActiveRequest& request, FinishReason reason, const std::string& error);
  void remove(ActiveRequest& request);

  Executor& executor_;
  const tokenizer::Tokenizer& tokenizer_;
  const EngineLimits limits_;
  Scheduler scheduler_;
  std::unordered_map<RequestId, std::unique_ptr<ActiveRequest>> requests_;
  Step step_;
  std::vector<device::SampleResult> results_;
  std::vector<ActiveRequest*> touched_;  // got a token in this step
  EngineStats stats_;
  size_t num_ended_ = 0;
};

}  // namespace nibble::runtime
