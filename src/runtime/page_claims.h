// Who may take one more KV page without any chance of a deadlock, and without preemption.
//
// Each running sequence claims the pages of its longest possible end (prompt + max_tokens, or the
// context limit) but holds only what it needs so far. A state is safe if the sequences can finish
// one after the other, each taking its whole claim from the free pages and giving all back (the
// banker's rule; with one kind of resource, smallest missing part first is the order that decides).
// Pages are handed out only if the state stays safe, so some sequence can always go on.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::runtime {

struct PageClaim {
  int32_t held = 0;  // pages that finishing would free
  int32_t limit = 0;  // pages at most, >= held

  int32_t missing() const { return limit - held; }
};

/// True if all claims can be served one after the other. Reorders `claims`; allocates nothing.
bool claims_are_safe(int32_t free_pages, std::span<PageClaim> claims);

}  // namespace nibble::runtime
