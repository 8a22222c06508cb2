// KV pages: numbers of fixed-size pages of 64 tokens in the pools of the full-attention layers.
//
// One number stands for that page in every layer. KV rows [0, kv_len) of a sequence are readable;
// rows up to the end of its last page are writable by the owning sequence only. A page with more
// than one reference is read-only. Which sequence may take one more page: page_claims.h.
#pragma once

#include "device/step_plan.h"
#include "runtime/number_pool.h"

#include <cstdint>
#include <vector>

namespace nibble::runtime {

/// Pages that hold `tokens` KV rows.
constexpr int32_t pages_for_tokens(int64_t tokens) {
  return static_cast<int32_t>((tokens + device::kPageTokens - 1) / device::kPageTokens);
}

class KvPages {
 public:
  explicit KvPages(int32_t num_pages) : pool_(num_pages, "KV page") {}

  int32_t total() const { return pool_.total(); }
  int32_t num_free() const { return pool_.num_free(); }
  uint32_t generation(int32_t page) const { return pool_.generation(page); }

  /// Grows `pages` to `count` with fresh pages; there must be enough free ones.
  void grow(std::vector<int32_t>& pages, int32_t count);
  /// Drops one reference of each page and empties the list.
  void release_all(std::vector<int32_t>& pages);

  void check_invariants(std::span<const int32_t> expected) const {
    pool_.check_invariants(expected);
  }

 private:
  NumberPool pool_;
};

}  // namespace nibble::runtime
