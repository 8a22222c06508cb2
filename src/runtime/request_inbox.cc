// All state is behind one mutex; it is held for a few moves at most.
#include "runtime/request_inbox.h"

#include "base/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nibble::runtime {

Result<RequestId> RequestInbox::push(Request request, std::shared_ptr<EventSink> sink) {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) return Error{ErrorCode::internal, "the engine has failed: " + failure_};
  if (closed_) return Error{ErrorCode::exhausted, "the engine is shutting down"};
  if (in_flight_ >= max_in_flight_) {
    return Error{ErrorCode::exhausted,
                 fmt::format("{} requests in flight, at most {} (max_num_queued_reqs)", in_flight_,
                             max_in_flight_)};
  }
  ++in_flight_;
  arrivals_.submissions.push_back(
      {++last_id_, std::move(request), std::move(sink), EngineClock::now()});
  news_.notify_one();
  return last_id_;
}

void RequestInbox::cancel(RequestId id) {
  const std::lock_guard lock(mutex_);
  arrivals_.cancels.push_back(id);
  news_.notify_one();
}

void RequestInbox::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
}

bool RequestInbox::wait_idle(double timeout_seconds) {
  constexpr double kLongest = 1e8;  // three years; more would overflow the clock
  const std::chrono::duration<double> timeout(std::clamp(timeout_seconds, 0.0, kLongest));
  std::unique_lock lock(mutex_);
  return idle_.wait_for(lock, timeout, [this] { return in_flight_ == 0; });
}

void RequestInbox::wait_idle() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return in_flight_ == 0; });
}

void RequestInbox::cancel_all() {
  const std::lock_guard lock(mutex_);
  arrivals_.cancel_all = true;
  news_.notify_one();
}

void RequestInbox::stop() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  arrivals_.stop = true;
  news_.notify_one();
}

int64_t RequestInbox::in_flight() const {
  const std::lock_guard lock(mutex_);
  return in_flight_;
}

bool RequestInbox::has_news() const {
  return !arrivals_.submissions.empty() || !arrivals_.cancels.empty() || arrivals_.cancel_all ||
         arrivals_.stop;
}

void RequestInbox::take(Arrivals& arrivals, bool may_wait) {
  arrivals.submissions.clear();
  arrivals.cancels.clear();
  std::unique_lock lock(mutex_);
  if (may_wait) news_.wait(lock, [this] { return has_news(); });
  arrivals.submissions.swap(arrivals_.submissions);
  arrivals.cancels.swap(arrivals_.cancels);
  arrivals.cancel_all = std::exchange(arrivals_.cancel_all, false);
  arrivals.stop = arrivals_.stop;
}

void RequestInbox::fail(const std::string& message) {
  const std::lock_guard lock(mutex_);
  failure_ = message;
}

void RequestInbox::finished(size_t count) {
  if (count == 0) return;
  const std::lock_guard lock(mutex_);
  in_flight_ -= static_cast<int64_t>(count);
  NIBBLE_CHECK(in_flight_ >= 0, "more requests finished than accepted", in_flight_);
  if (in_flight_ == 0) idle_.notify_all();
}

}  // namespace nibble::runtime
