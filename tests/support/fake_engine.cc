#include "tests/support/fake_engine.h"

#include <chrono>
#include <utility>

namespace nibble::test {
namespace {

constexpr auto kDeadline = std::chrono::seconds(30);

runtime::Delta one_token(const std::string& text) {
  runtime::Delta delta;
  delta.text = text;
  delta.tokens = {text.empty() ? 0 : static_cast<unsigned char>(text[0])};
  return delta;
}

}  // namespace

FakeEngine::FakeEngine() : thread_([this] { loop(); }) {
  limits_.max_model_len = 4096;
}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Result<runtime::RequestId> FakeEngine::submit(runtime::Request request,
                                              std::shared_ptr<runtime::EventSink> sink) {
  std::vector<std::string> script;
  size_t number = 0;
  bool is_scripted = false;
  {
    const std::lock_guard lock(mutex_);
    if (!refusal_.empty()) return refusal_[0];
    number = entries_.size();
    entries_.push_back(Entry{std::move(request), std::move(sink)});
    script = script_;
    is_scripted = is_scripted_;
  }
  changed_.notify_all();
  if (is_scripted) {
    for (const std::string& text : script) delta(number, text);
    finish(number);
  }
  return number + 1;
}

void FakeEngine::cancel(runtime::RequestId id) {
  order([this, number = static_cast<size_t>(id - 1)] {
    runtime::Finish finish;
    finish.reason = runtime::FinishReason::cancelled;
    end(number, finish);
  });
}

runtime::EngineStats FakeEngine::stats() const {
  runtime::EngineStats stats;
  stats.running = static_cast<int32_t>(num_active());
  return stats;
}

void FakeEngine::drain(double) {
  refuse_with(Error{ErrorCode::exhausted, "draining"});
}

void FakeEngine::answer_with(std::vector<std::string> pieces) {
  const std::lock_guard lock(mutex_);
  script_ = std::move(pieces);
  is_scripted_ = true;
}

void FakeEngine::refuse_with(Error error) {
  const std::lock_guard lock(mutex_);
  refusal_ = {std::move(error)};
}

bool FakeEngine::wait_for_requests(size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kDeadline, [&] { return entries_.size() >= count; });
}

bool FakeEngine::wait_for_cancelled(size_t count) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kDeadline, [&] { return num_cancelled_ >= count; });
}

bool FakeEngine::wait_for_idle() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kDeadline, [&] { return count_active() == 0; });
}

runtime::Request FakeEngine::request(size_t number) const {
  const std::lock_guard lock(mutex_);
  return entries_.at(number).request;
}

size_t FakeEngine::num_cancelled() const {
  const std::lock_guard lock(mutex_);
  return num_cancelled_;
}

size_t FakeEngine::num_active() const {
  const std::lock_guard lock(mutex_);
  return count_active();
}

size_t FakeEngine::count_active() const {
  size_t active = 0;
  for (const Entry& entry : entries_) active += entry.is_finished ? 0 : 1;
  return active;
}

void FakeEngine::delta(size_t number, const std::string& text) {
  delta(number, one_token(text));
}

void FakeEngine::delta(size_t number, runtime::Delta delta) {
  order([this, number, delta = std::move(delta)] { send(number, delta); });
}

void FakeEngine::finish(size_t number, runtime::FinishReason reason) {
  runtime::Finish finish;
  finish.reason = reason;
  this->finish(number, std::move(finish));
}

void FakeEngine::finish(size_t number, runtime::Finish finish) {
  order([this, number, finish = std::move(finish)] { end(number, finish); });
}

void FakeEngine::order(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  changed_.notify_all();
}

void FakeEngine::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return is_stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.pop_front();
    lock.unlock();
    task();
    lock.lock();
  }
}

// Sinks are called without the lock: they may take their own.
void FakeEngine::send(size_t number, const runtime::Delta& delta) {
  std::shared_ptr<runtime::EventSink> sink;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(number);
    if (entry.is_finished) return;
    entry.completion_tokens += static_cast<int32_t>(delta.tokens.size());
    sink = entry.sink;
  }
  sink->on_delta(number + 1, delta);
}

void FakeEngine::end(size_t number, runtime::Finish finish) {
  std::shared_ptr<runtime::EventSink> sink;
  {
    const std::lock_guard lock(mutex_);
    Entry& entry = entries_.at(number);
    if (entry.is_finished) return;
    entry.is_finished = true;
    sink = std::move(entry.sink);
    finish.usage.prompt_tokens = static_cast<int32_t>(entry.request.prompt_tokens.size());
    finish.usage.completion_tokens = entry.completion_tokens;
    if (finish.reason == runtime::FinishReason::cancelled) ++num_cancelled_;
  }
  sink->on_finish(number + 1, finish);
  changed_.notify_all();
}

}  // namespace nibble::test
