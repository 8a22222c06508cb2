// EventQueue: a request's events on their way from the engine thread to its connection.
//
// The engine pushes and never waits; the connection takes. The queue is bounded in bytes: a client
// that does not read makes it overflow, later deltas are dropped and the connection gives up. The
// terminal event is always kept.
#pragma once

#include "runtime/request.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <variant>
#include <vector>

namespace nibble::server {

struct EngineEvent {
  int32_t choice = 0;  // which of the n answers
  std::variant<runtime::Delta, runtime::Finish> what;
};

class EventQueue {
 public:
  explicit EventQueue(size_t max_bytes) : max_bytes_(max_bytes) {}

  /// Called when the queue stops being empty, and on overflow; under the queue's lock, so it must
  /// not come back here. Calls at once if something waits already.
  void set_wake(std::function<void()> wake);
  /// From the engine thread.
  void push(EngineEvent event);
  /// Everything that waits, in order.
  std::vector<EngineEvent> take();
  bool overflowed() const;
  /// No wake is running or will run after this returns; later events are dropped.
  void close();

 private:
  mutable std::mutex mutex_;
  std::function<void()> wake_;
  std::vector<EngineEvent> events_;
  const size_t max_bytes_;
  size_t bytes_ = 0;
  bool overflowed_ = false;
  bool closed_ = false;
};

/// The sink of one choice. Shared: the engine holds it until the terminal event, the queue lives as
/// long as either side.
std::shared_ptr<runtime::EventSink> make_sink(std::shared_ptr<EventQueue> queue, int32_t choice);

}  // namespace nibble::server
