#include "bench/read_bandwidth.h"

#include "base/check.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

namespace nibble::bench {
namespace {

constexpr int64_t kBytes = 512 << 20;
constexpr int64_t kTaskBytes = 1 << 20;
constexpr int kPasses = 5;

// Several chains, so that the additions do not wait for each other.
uint64_t sum_words(const uint64_t* words, int64_t count) {
  uint64_t chains[8] = {};
  for (int64_t i = 0; i < count; i += 8) {
    for (int64_t j = 0; j < 8; ++j) chains[j] += words[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t chain : chains) sum += chain;
  return sum;
}

}  // namespace

double measure_read_bandwidth(ThreadPool& pool) {
  constexpr int64_t kWords = kTaskBytes / static_cast<int64_t>(sizeof(uint64_t));
  const std::vector<uint64_t> buffer(static_cast<size_t>(kBytes) / sizeof(uint64_t), 1);
  std::atomic<uint64_t> total{0};
  double best_seconds = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto started = std::chrono::steady_clock::now();
    pool.parallel_for(kBytes / kTaskBytes, [&](int64_t task, int) {
      total.fetch_add(sum_words(buffer.data() + task * kWords, kWords), std::memory_order_relaxed);
    });
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - started;
    best_seconds = std::min(best_seconds, elapsed.count());
  }
  NIBBLE_CHECK(total.load() == buffer.size() * kPasses, "bytes read");
  return static_cast<double>(kBytes) / best_seconds * 1e-9;
}

}  // namespace nibble::bench
