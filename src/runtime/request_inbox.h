// Where connection threads and the engine thread meet: a bounded queue of requests, cancels, and
// the words "stop" and "drain".
//
// Safe from any thread. A request counts as in flight from push() until finished(), so the bound
// covers waiting and running requests, and idleness can be waited for.
#pragma once

#include "base/result.h"
#include "runtime/request.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace nibble::runtime {

using EngineClock = std::chrono::steady_clock;

/// An accepted request on its way to the engine thread.
struct Submission {
  RequestId id = 0;
  Request request;
  std::shared_ptr<EventSink> sink;  // shared by the connection and the engine
  EngineClock::time_point submitted;
};

/// What arrived since the last take().
struct Arrivals {
  std::vector<Submission> submissions;  // in order of id
  std::vector<RequestId> cancels;
  bool cancel_all = false;
  bool stop = false;
};

class RequestInbox {
 public:
  explicit RequestInbox(int32_t max_in_flight) : max_in_flight_(max_in_flight) {}

  // ---- Any thread
  /// Ids grow from 1. Errors: exhausted (full or closed), internal (closed by fail()).
  Result<RequestId> push(Request request, std::shared_ptr<EventSink> sink);
  void cancel(RequestId id);
  /// Refuses requests from now on.
  void close();
  /// True if no request is in flight before the time is over.
  bool wait_idle(double timeout_seconds);
  void wait_idle();
  int64_t in_flight() const;
  /// Asks the engine thread to cancel all that is in flight.
  void cancel_all();
  /// Asks the engine thread to end; it takes the arrivals so far first.
  void stop();

  // ---- Engine thread
  /// Moves the arrivals to `arrivals` (replaced). Waits for one if `may_wait`.
  void take(Arrivals& arrivals, bool may_wait);
  /// Refuses requests from now on with this message.
  void fail(const std::string& message);
  /// `count` requests heard their terminal event.
  void finished(size_t count);

 private:
  bool has_news() const;

  const int32_t max_in_flight_;
  mutable std::mutex mutex_;
  std::condition_variable news_, idle_;
  Arrivals arrivals_;
  RequestId last_id_ = 0;
  int64_t in_flight_ = 0;
  bool closed_ = false;
  std::string failure_;
};

}  // namespace nibble::runtime
