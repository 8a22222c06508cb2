// The free list is a stack whose capacity never changes.
#include "runtime/number_pool.h"

#include "base/check.h"

#include <utility>

namespace nibble::runtime {

NumberPool::NumberPool(int32_t total, std::string what) : what_(std::move(what)) {
  NIBBLE_CHECK(total >= 0, "pool size", what_, total);
  free_.reserve(static_cast<size_t>(total));
  for (int32_t number = total - 1; number >= 0; --number) free_.push_back(number);
  ref_counts_.assign(static_cast<size_t>(total), 0);
  generations_.assign(static_cast<size_t>(total), 0);
}

int32_t NumberPool::acquire() {
  NIBBLE_CHECK(!free_.empty(), "pool is empty", what_, total());
  const int32_t number = free_.back();
  free_.pop_back();
  ref_counts_[static_cast<size_t>(number)] = 1;
  return number;
}

void NumberPool::share(int32_t number) {
  const size_t i = checked(number);
  NIBBLE_CHECK(ref_counts_[i] > 0, "share of a free number", what_, number);
  ++ref_counts_[i];
}

void NumberPool::release(int32_t number) {
  const size_t i = checked(number);
  NIBBLE_CHECK(ref_counts_[i] > 0, "release of a free number", what_, number);
  if (--ref_counts_[i] > 0) return;
  ++generations_[i];
  free_.push_back(number);
}

void NumberPool::check_invariants(std::span<const int32_t> expected) const {
  NIBBLE_CHECK(expected.size() == ref_counts_.size(), "expected counts", what_, expected.size());
  size_t in_use = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    NIBBLE_CHECK(ref_counts_[i] == expected[i], "references counted and held differ", what_, i,
                 ref_counts_[i], expected[i]);
    if (expected[i] > 0) ++in_use;
  }
  NIBBLE_CHECK(in_use + free_.size() == ref_counts_.size(), "free + used != total", what_, in_use,
               free_.size());
  // Distinct because each free number has count 0 and the two sets add up to the total.
  for (const int32_t number : free_) {
    NIBBLE_CHECK(ref_counts_[checked(number)] == 0, "a number in use is in the free list", what_,
                 number);
  }
}

size_t NumberPool::checked(int32_t number) const {
  NIBBLE_CHECK(number >= 0 && number < total(), "number outside the pool", what_, number, total());
  return static_cast<size_t>(number);
}

}  // namespace nibble::runtime
