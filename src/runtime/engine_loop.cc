// Start reading at run_step(). Stages have no other state than the members they name.
#include "runtime/engine_loop.h"

#include "base/check.h"
#include "runtime/step_builder.h"

#include <algorithm>
#include <utility>

namespace nibble::runtime {

EngineLoop::EngineLoop(Executor& executor, const tokenizer::Tokenizer& tokenizer,
                       const EngineLimits& limits)
    : executor_(executor),
      tokenizer_(tokenizer),
      limits_(limits),
      scheduler_(limits),
      step_(make_step(step_capacity(limits))),
      results_(static_cast<size_t>(limits.max_num_seqs)) {
  touched_.reserve(static_cast<size_t>(limits.max_num_seqs));
}

void EngineLoop::accept(Submission submission) {
  const RequestId id = submission.id;
  auto request =
      std::make_unique<ActiveRequest>(std::move(submission), tokenizer_, limits_.max_model_len);
  scheduler_.add(request->sequence);
  const bool is_new = requests_.emplace(id, std::move(request)).second;
  NIBBLE_CHECK(is_new, "request id used twice", id);
}

void EngineLoop::cancel(RequestId id) {
  const auto found = requests_.find(id);
  if (found != requests_.end()) end_now(*found->second, FinishReason::cancelled, {});
}

void EngineLoop::cancel_all() {
  while (!requests_.empty()) end_now(*requests_.begin()->second, FinishReason::cancelled, {});
}

void EngineLoop::fail_all(const std::string& message) {
  scheduler_.abandon();
  while (!requests_.empty()) end_now(*requests_.begin()->second, FinishReason::error, message);
}

Result<void> EngineLoop::run_step() {
  admit();
  const std::span<const ScheduledSequence> parts = schedule();
  if (parts.empty()) return {};
  prepare(parts);
  NIBBLE_RETURN_IF_ERROR(forward());
  collect(parts);
  publish();
  retire();
#ifdef NDEBUG
  if (limits_.verify_invariants) check_invariants();
#else
  check_invariants();
#endif
  return {};
}

void EngineLoop::admit() {
  scheduler_.admit();
}

std::span<const ScheduledSequence> EngineLoop::schedule() {
  return scheduler_.schedule();
}

void EngineLoop::prepare(std::span<const ScheduledSequence> parts) {
  build_step(parts, step_);
  const EngineClock::time_point now = EngineClock::now();
  for (const ScheduledSequence& part : parts) {
    if (!part.is_prefill) continue;
    stats_.prompt_tokens += static_cast<uint64_t>(part.num_tokens);
    if (part.first_token == 0) request_of(*part.sequence).first_scheduled = now;
  }
}

Result<void> EngineLoop::forward() {
  return executor_.run(step_, std::span(results_).first(step_.samples.size()));
}

void EngineLoop::collect(std::span<const ScheduledSequence> parts) {
  ++stats_.steps;
  const EngineClock::time_point now = EngineClock::now();
  touched_.clear();
  for (const ScheduledSequence& part : parts) {
    if (part.wants_token) touched_.push_back(&request_of(*part.sequence));
  }
  scheduler_.advance();
  for (size_t i = 0; i < touched_.size(); ++i) {
    touched_[i]->take_token(results_[i], now);
    stats_.generated_tokens += touched_[i]->delta.tokens.size();
  }
}

void EngineLoop::publish() {
  for (ActiveRequest* request : touched_) request->publish();
}

void EngineLoop::retire() {
  for (ActiveRequest* request : touched_) {
    if (request->has_ended()) remove(*request);
  }
  touched_.clear();
}

ActiveRequest& EngineLoop::request_of(const Sequence& sequence) {
  const auto found = requests_.find(sequence.id);
  NIBBLE_CHECK(found != requests_.end(), "a scheduled sequence has no request", sequence.id);
  return *found->second;
}

/// Between steps only. Text that was held back is dropped.
void EngineLoop::end_now(ActiveRequest& request, FinishReason reason, const std::string& error) {
  // A request whose own event was not yet sent when a stage failed keeps that event.
  if (!request.has_ended()) request.end(reason, error);
  request.publish();
  remove(request);
}

void EngineLoop::remove(ActiveRequest& request) {
  scheduler_.remove(request.sequence);
  ++num_ended_;
  ++stats_.finished;
  requests_.erase(request.submission.id);
}

size_t EngineLoop::take_num_ended() {
  return std::exchange(num_ended_, 0);
}

EngineStats EngineLoop::stats() const {
  EngineStats stats = stats_;
  stats.running = scheduler_.num_running();
  stats.waiting = scheduler_.num_waiting();
  stats.free_pages = scheduler_.num_free_pages();
  stats.free_slots = scheduler_.num_free_slots();
  return stats;
}

void EngineLoop::check_invariants() {
  scheduler_.check_invariants();
  const int32_t listed = scheduler_.num_running() + scheduler_.num_waiting();
  NIBBLE_CHECK(static_cast<size_t>(listed) == requests_.size(), "requests and sequences disagree",
               listed, requests_.size());
  for (const auto& [id, request] : requests_) {
    NIBBLE_CHECK(!request->has_ended(), "an ended request was not retired", id);
  }
}

}  // namespace nibble::runtime
