// Engine: owns sequences, scheduler and caches on one thread; takes requests from any thread,
// answers through sinks.
//
// Loop: admit -> schedule -> prepare -> forward -> collect -> publish -> retire (CONTRACT.md). A
// submitted request waits in a bounded queue, first come first served; a full queue refuses at
// once. cancel() is asynchronous: the terminal event still comes, exactly once.
#pragma once

#include "base/result.h"
#include "runtime/request.h"

#include <cstdint>
#include <memory>
#include <string>

namespace nibble::tokenizer {
class Tokenizer;
}

namespace nibble::runtime {

class Executor;
struct StepCapacity;

struct EngineLimits {
  int32_t max_num_seqs = 8;  // running sequences (state slots)
  int32_t max_num_batched_tokens = 2048;  // rows of one step
  int32_t max_model_len = 0;  // prompt + completion of one sequence
  int32_t max_num_queued_reqs = 1024;  // accepted and not finished, running ones included
  int32_t num_pages = 0;  // KV pages of 64 tokens in all; one sequence of max_model_len fits
  bool verify_invariants = false;  // after every step; debug builds always do
};

/// The largest step under these limits: a budget below max_num_seqs + 64 rows acts as that, so that
/// every decode and one prefill chunk always have room.
StepCapacity step_capacity(const EngineLimits& limits);

/// A snapshot of counters, safe from any thread.
struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t free_pages = 0;
  int32_t free_slots = 0;
  uint64_t finished = 0;
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  uint64_t steps = 0;
  bool has_failed = false;  // the executor is lost; every request was answered with an error
};

class Engine {
 public:
  /// Starts the engine thread. `executor` and `tokenizer` are used, outlive the engine, and belong
  /// to its thread.
  static std::unique_ptr<Engine> start(Executor& executor, const tokenizer::Tokenizer& tokenizer,
                                       const EngineLimits& limits);
  virtual ~Engine() = default;  // stops: cancels everything, delivers terminal events, joins

  /// Queues a request. Errors: invalid_argument (check_request), exhausted (queue full, or shutting
  /// down), internal (the engine has failed). After an error the sink hears nothing.
  virtual Result<RequestId> submit(Request request, std::shared_ptr<EventSink> sink) = 0;
  virtual void cancel(RequestId id) = 0;
  virtual EngineStats stats() const = 0;
  virtual const EngineLimits& limits() const = 0;
  /// Stops accepting; returns when nothing runs or `timeout_seconds` passed, then cancels the rest.
  virtual void drain(double timeout_seconds) = 0;
};

}  // namespace nibble::runtime
