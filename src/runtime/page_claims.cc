// The common case, enough pages for everybody at once, is one addition per claim.
#include "runtime/page_claims.h"

#include <algorithm>

namespace nibble::runtime {

bool claims_are_safe(int32_t free_pages, std::span<PageClaim> claims) {
  int64_t missing = 0;
  for (const PageClaim& claim : claims) missing += claim.missing();
  if (missing <= free_pages) return true;

  std::sort(claims.begin(), claims.end(),
            [](const PageClaim& a, const PageClaim& b) { return a.missing() < b.missing(); });
  int64_t available = free_pages;
  for (const PageClaim& claim : claims) {
    if (claim.missing() > available) return false;
    available += claim.held;
  }
  return true;
}

}  // namespace nibble::runtime
