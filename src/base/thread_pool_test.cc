// Tests for ThreadPool: every task exactly once, on a valid worker, with its writes seen
// afterwards.
#include "base/thread_pool.h"

#include "base/cpu_features.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <numeric>
#include <vector>

namespace nibble {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryTaskExactlyOnce) {
  ThreadPool pool(GetParam(), {});
  ASSERT_EQ(pool.num_threads(), GetParam());
  for (const int64_t count : {0, 1, 2, 3, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
    std::atomic<int> bad_workers{0};
    const auto task = [&](int64_t i, int worker) {
      runs[static_cast<size_t>(i)].fetch_add(1);
      if (worker < 0 || worker >= pool.num_threads()) bad_workers.fetch_add(1);
    };
    pool.parallel_for(count, task);
    for (const std::atomic<int>& run : runs) ASSERT_EQ(run.load(), 1);
    EXPECT_EQ(bad_workers.load(), 0);
  }
}

TEST_P(ThreadPoolTest, PlainWritesAreVisibleAfterEachOfManyCalls) {
  ThreadPool pool(GetParam(), usable_physical_cores());
  std::vector<int64_t> values(64);
  for (int64_t round = 1; round <= 2000; ++round) {
    pool.parallel_for(static_cast<int64_t>(values.size()),
                      [&](int64_t i, int) { values[static_cast<size_t>(i)] += i; });
    ASSERT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), round * 63 * 64 / 2);
  }
}

TEST_P(ThreadPoolTest, NoWorkerRunsTwoTasksAtOnce) {
  ThreadPool pool(GetParam(), {});
  std::vector<std::atomic<int>> inside(static_cast<size_t>(pool.num_threads()));
  std::atomic<int> overlaps{0};
  const auto task = [&](int64_t, int worker) {
    std::atomic<int>& mine = inside[static_cast<size_t>(worker)];
    if (mine.fetch_add(1) != 0) overlaps.fetch_add(1);
    mine.fetch_sub(1);
  };
  for (int round = 0; round < 200; ++round) pool.parallel_for(50, task);
  EXPECT_EQ(overlaps.load(), 0);
}

TEST_P(ThreadPoolTest, UnusedPoolShutsDown) {
  for (int i = 0; i < 20; ++i) const ThreadPool pool(GetParam(), {});
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 5));

TEST(ThreadPoolDeathTest, RefusesZeroThreads) {
  EXPECT_DEATH(ThreadPool(0, {}), "thread count");
}

}  // namespace
}  // namespace nibble
