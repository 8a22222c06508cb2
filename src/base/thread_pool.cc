#include "base/thread_pool.h"

#include "base/check.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

namespace nibble {
namespace {

// Spins of about 40 ns each before a worker parks: long enough to bridge the serial parts of a
// decode step.
constexpr int kSpins = 4000;

// tickets_: number of the loop above, unclaimed tasks below.
constexpr int kLoopShift = 32;
constexpr uint64_t kTaskMask = (uint64_t{1} << kLoopShift) - 1;
constexpr int64_t kMaxTasks = static_cast<int64_t>(kTaskMask);

bool has_tasks(uint64_t tickets) {
  return (tickets & kTaskMask) != 0;
}

void pin(std::thread& thread, int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  // Best effort: a container may forbid it, and then the scheduler decides.
  (void)pthread_setaffinity_np(thread.native_handle(), sizeof set, &set);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads, const std::vector<int>& cores) {
  NIBBLE_CHECK(num_threads >= 1, "thread count", num_threads);
  for (int worker = 1; worker < num_threads; ++worker) {
    threads_.emplace_back([this, worker] { worker_loop(worker); });
    if (!cores.empty()) {
      pin(threads_.back(), cores[static_cast<size_t>(worker) % cores.size()]);
    }
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_.store(true);
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::parallel_for(int64_t count, TaskRef task) {
  if (count <= 0) return;
  if (threads_.empty() || count == 1) {
    for (int64_t i = 0; i < count; ++i) task(i, 0);
    return;
  }
  NIBBLE_CHECK(count <= kMaxTasks, "tasks of one loop", count);
  task_ = &task;
  count_ = count;
  completed_.store(0, std::memory_order_relaxed);
  const uint64_t loop = (tickets_.load(std::memory_order_relaxed) >> kLoopShift) + 1;
  tickets_.store((loop << kLoopShift) + static_cast<uint64_t>(count), std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    // Taking the lock orders this wake-up after a worker's last look at the tickets.
    { const std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
  }
  run_tasks(0);
  for (int spins = 0; completed_.load(std::memory_order_acquire) != count; ++spins) {
    if (spins < kSpins) {
      _mm_pause();
    } else {
      std::this_thread::yield();
    }
  }
}

// Takes one task of whatever loop is running; false when none is left.
bool ThreadPool::claim(int64_t& task) {
  uint64_t seen = tickets_.load(std::memory_order_acquire);
  while (has_tasks(seen)) {
    if (tickets_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                       std::memory_order_acquire)) {
      task = count_ - static_cast<int64_t>(seen & kTaskMask);
      return true;
    }
  }
  return false;
}

void ThreadPool::run_tasks(int worker) {
  int64_t task = 0;
  while (claim(task)) {
    (*task_)(task, worker);
    completed_.fetch_add(1, std::memory_order_release);
  }
}

void ThreadPool::worker_loop(int worker) {
  while (true) {
    for (int spins = 0; spins < kSpins && !has_tasks(tickets_.load(std::memory_order_acquire));
         ++spins) {
      _mm_pause();
    }
    if (!has_tasks(tickets_.load(std::memory_order_acquire))) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      wake_.wait(lock, [this] {
        return stop_.load() || has_tasks(tickets_.load(std::memory_order_seq_cst));
      });
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      if (stop_.load()) return;
    }
    run_tasks(worker);
  }
}

}  // namespace nibble
