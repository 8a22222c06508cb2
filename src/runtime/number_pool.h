// A pool of the numbers 0 .. total-1 with reference counts and generations; KV pages and state
// slots are such numbers.
//
// All memory is taken by the constructor; acquire and release are O(1). A number's generation grows
// each time it becomes free, so a remembered (number, generation) pair tells whether it still means
// the same contents. Engine thread only. Misuse (double release, empty pool) aborts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::runtime {

class NumberPool {
 public:
  /// `what` names the numbers in messages ("KV page").
  NumberPool(int32_t total, std::string what);

  int32_t total() const { return static_cast<int32_t>(ref_counts_.size()); }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }

  /// A free number, now with one reference. The pool must not be empty.
  int32_t acquire();
  /// One more reference to a number in use.
  void share(int32_t number);
  /// One reference less; at none the number is free and its generation grows.
  void release(int32_t number);

  int32_t ref_count(int32_t number) const { return ref_counts_[checked(number)]; }
  uint32_t generation(int32_t number) const { return generations_[checked(number)]; }

  /// Aborts unless the numbers in use are exactly those with a count in `expected` ([total]
  /// references that the owners say they hold), and all others are free once.
  void check_invariants(std::span<const int32_t> expected) const;

 private:
  size_t checked(int32_t number) const;

  std::string what_;
  std::vector<int32_t> free_;  // a stack: the number released last is used next
  std::vector<int32_t> ref_counts_;
  std::vector<uint32_t> generations_;
};

}  // namespace nibble::runtime
