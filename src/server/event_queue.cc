#include "server/event_queue.h"

#include <utility>

namespace nibble::server {
namespace {

// Memory behind one event, roughly; what counts is that it grows with what the client did not read.
size_t event_bytes(const EngineEvent& event) {
  const auto* delta = std::get_if<runtime::Delta>(&event.what);
  if (delta == nullptr) return 0;
  size_t bytes = sizeof(EngineEvent) + delta->text.size() + delta->tokens.size() * sizeof(int32_t);
  for (const runtime::TokenLogprob& logprob : delta->logprobs) {
    bytes += sizeof(logprob) + logprob.top.size() * sizeof(logprob.top[0]);
  }
  return bytes;
}

class ChoiceSink : public runtime::EventSink {
 public:
  ChoiceSink(std::shared_ptr<EventQueue> queue, int32_t choice)
      : queue_(std::move(queue)), choice_(choice) {}

  void on_delta(runtime::RequestId, const runtime::Delta& delta) override {
    queue_->push(EngineEvent{choice_, delta});
  }
  void on_finish(runtime::RequestId, const runtime::Finish& finish) override {
    queue_->push(EngineEvent{choice_, finish});
  }

 private:
  std::shared_ptr<EventQueue> queue_;
  int32_t choice_;
};

}  // namespace

void EventQueue::set_wake(std::function<void()> wake) {
  const std::lock_guard lock(mutex_);
  wake_ = std::move(wake);
  if (!events_.empty() && wake_) wake_();
}

void EventQueue::push(EngineEvent event) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  const size_t added = event_bytes(event);
  const bool is_terminal = std::holds_alternative<runtime::Finish>(event.what);
  if (!is_terminal && (overflowed_ || bytes_ + added > max_bytes_)) {
    const bool is_new = !overflowed_;
    overflowed_ = true;
    if (is_new && wake_) wake_();
    return;
  }
  const bool was_empty = events_.empty();
  bytes_ += added;
  events_.push_back(std::move(event));
  if (was_empty && wake_) wake_();
}

std::vector<EngineEvent> EventQueue::take() {
  const std::lock_guard lock(mutex_);
  bytes_ = 0;
  return std::exchange(events_, {});
}

bool EventQueue::overflowed() const {
  const std::lock_guard lock(mutex_);
  return overflowed_;
}

void EventQueue::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  wake_ = nullptr;
  events_.clear();
}

std::shared_ptr<runtime::EventSink> make_sink(std::shared_ptr<EventQueue> queue, int32_t choice) {
  return std::make_shared<ChoiceSink>(std::move(queue), choice);
}

}  // namespace nibble::server
