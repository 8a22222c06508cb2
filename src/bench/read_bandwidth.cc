#include "bench/read_bandwidth.h"

#include "base/check.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>

namespace nibble::bench {
namespace {

constexpr int64_t kBytes = 512 << 20;
constexpr int64_t kTaskBytes = 1 << 20;
constexpr int kPasses = 5;

// Words of one cache line, and how far ahead lines are asked for.
constexpr int64_t kLine = 8;
constexpr int64_t kAhead = 512;

// Several chains, so that the additions do not wait for each other.
uint64_t sum_words(const uint64_t* words, int64_t count) {
  uint64_t chains[kLine] = {};
  for (int64_t i = 0; i < count; i += kLine) {
    __builtin_prefetch(words + i + kAhead);
    for (int64_t j = 0; j < kLine; ++j) chains[j] += words[i + j];
  }
  uint64_t sum = 0;
  for (const uint64_t chain : chains) sum += chain;
  return sum;
}

}  // namespace

double measure_read_bandwidth(ThreadPool& pool) {
  constexpr int64_t kWords = kTaskBytes / static_cast<int64_t>(sizeof(uint64_t));
  // Large pages, as the weights have them.
  void* memory =
      ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  (void)::madvise(memory, kBytes, MADV_HUGEPAGE);
  const std::span<uint64_t> buffer(static_cast<uint64_t*>(memory),
                                   static_cast<size_t>(kBytes) / sizeof(uint64_t));
  std::fill(buffer.begin(), buffer.end(), 1);
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
  NIBBLE_CHECK(total.load() == buffer.size() * kPasses, "words read");
  ::munmap(memory, kBytes);
  return static_cast<double>(kBytes) / best_seconds * 1e-9;
}

}  // namespace nibble::bench
