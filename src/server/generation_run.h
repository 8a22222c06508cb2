// GenerationRun: the engine side of one HTTP request - n sequences from submit to terminal events.
//
// It submits, takes events, splits reasoning from answer, counts, and cancels what still runs when
// it is destroyed. It knows nothing of JSON or of an API's answer format: every endpoint that
// generates text formats the pieces its own way.
#pragma once

#include "base/result.h"
#include "runtime/engine.h"
#include "runtime/request.h"
#include "server/event_queue.h"
#include "tokenizer/reasoning_splitter.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace nibble::server {

/// What one event adds to one choice. May hold nothing but logprobs; the last piece has `finish`.
struct OutputPiece {
  int32_t choice = 0;
  std::string reasoning;
  std::string content;
  std::vector<runtime::TokenLogprob> logprobs;
  std::optional<runtime::Finish> finish;
};

struct UsageTotals {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;  // all choices
  int32_t reasoning_tokens = 0;
};

struct RunOptions {
  bool starts_in_reasoning = false;  // the prompt ends inside an open <think>
  size_t max_buffered_bytes = SIZE_MAX;  // unread events, then overflowed()
};

class GenerationRun {
 public:
  /// Submits all requests or, on an error, none (those already queued are cancelled). Error codes
  /// as Engine::submit. The engine outlives the run.
  static Result<std::unique_ptr<GenerationRun>> start(runtime::Engine& engine,
                                                      std::vector<runtime::Request> requests,
                                                      const RunOptions& options);
  ~GenerationRun();
  GenerationRun(const GenerationRun&) = delete;
  GenerationRun& operator=(const GenerationRun&) = delete;

  void set_wake(std::function<void()> wake) { queue_->set_wake(std::move(wake)); }
  /// What has come since the last call, in order.
  std::vector<OutputPiece> take();
  bool is_done() const { return num_finished_ == choices_.size(); }
  bool overflowed() const { return queue_->overflowed(); }
  /// Asks the engine to end every choice that still runs; terminal events still come.
  void cancel();

  size_t num_choices() const { return choices_.size(); }
  /// The choice ended, or stands now, before its answer began.
  bool is_in_reasoning(int32_t choice) const;
  const UsageTotals& usage() const { return usage_; }
  /// Timing of the first choice; valid once it has finished.
  const runtime::Usage& timing() const { return timing_; }

 private:
  struct Choice {
    runtime::RequestId id = 0;
    tokenizer::ReasoningSplitter splitter;
    bool is_finished = false;
  };

  GenerationRun(runtime::Engine& engine, const RunOptions& options, int32_t prompt_tokens);
  OutputPiece read_delta(Choice& choice, runtime::Delta delta);
  OutputPiece read_finish(Choice& choice, runtime::Finish finish);

  runtime::Engine& engine_;
  std::shared_ptr<EventQueue> queue_;  // shared with the sinks in the engine
  std::vector<Choice> choices_;
  size_t num_finished_ = 0;
  UsageTotals usage_;
  runtime::Usage timing_;
};

}  // namespace nibble::server
