// A fixed pool of kernel threads: parallel_for over numbered tasks, spinning briefly, then parked.
//
// The calling thread is worker 0 and takes part. Tasks are handed out by an atomic counter, so
// which worker runs a task is not fixed: a task's result must not depend on it (design: batch and
// thread invariance).
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace nibble {

/// A non-owning reference to a callable void(int64_t task, int worker); lives no longer than the
/// call.
class TaskRef {
 public:
  template <typename Callable>
  TaskRef(const Callable& callable)  // NOLINT: implicit by design
      : object_(&callable), call_([](const void* object, int64_t task, int worker) {
          (*static_cast<const Callable*>(object))(task, worker);
        }) {}
  void operator()(int64_t task, int worker) const { call_(object_, task, worker); }

 private:
  const void* object_;
  void (*call_)(const void*, int64_t, int);
};

class ThreadPool {
 public:
  /// `num_threads` >= 1, the caller included. Workers are pinned to `cores` (round robin) when not
  /// empty.
  ThreadPool(int num_threads, const std::vector<int>& cores);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  /// Runs task(0..count-1, worker) and returns when all are done. One caller at a time; not
  /// reentrant.
  void parallel_for(int64_t count, TaskRef task);

 private:
  void worker_loop(int worker);
  void run_tasks(int worker);
  bool claim(int64_t& task);

  std::vector<std::thread> threads_;
  // Tasks not yet claimed, and the number of the loop they belong to above: (loop << 32) +
  // unclaimed. A task is claimed by a compare-and-swap of both, so a worker that slept through a
  // loop cannot touch the next one by mistake, and the caller need not wait for workers that never
  // came.
  std::atomic<uint64_t> tickets_{0};
  std::atomic<int64_t> completed_{0};
  const TaskRef* task_ = nullptr;  // stable while an unfinished task of the loop exists
  int64_t count_ = 0;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable wake_;
};

}  // namespace nibble
