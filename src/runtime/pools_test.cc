// Tests of the number pools behind KV pages and state slots, and of the page claims.
#include "base/rng.h"
#include "runtime/kv_pages.h"
#include "runtime/page_claims.h"
#include "runtime/state_slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace nibble::runtime {
namespace {

TEST(NumberPool, GivesEachNumberOnceAndCountsReferences) {
  NumberPool pool(3, "thing");
  const int32_t a = pool.acquire();
  const int32_t b = pool.acquire();
  const int32_t c = pool.acquire();
  EXPECT_EQ(pool.num_free(), 0);
  std::vector<int32_t> all = {a, b, c};
  std::sort(all.begin(), all.end());
  EXPECT_EQ(all, (std::vector<int32_t>{0, 1, 2}));

  pool.share(b);
  const uint32_t generation = pool.generation(b);
  pool.release(b);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_EQ(pool.generation(b), generation);
  pool.release(b);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_NE(pool.generation(b), generation) << "a remembered handle must turn stale";
  EXPECT_EQ(pool.acquire(), b);
}

TEST(NumberPoolDeathTest, MisuseAborts) {
  NumberPool pool(2, "thing");
  const int32_t a = pool.acquire();
  pool.release(a);
  EXPECT_DEATH(pool.release(a), "release of a free number");
  EXPECT_DEATH(pool.share(a), "share of a free number");
  EXPECT_DEATH(pool.release(2), "outside the pool");
  pool.acquire();
  pool.acquire();
  EXPECT_DEATH(pool.acquire(), "pool is empty");
}

TEST(NumberPoolDeathTest, InvariantsFindALostAndADoubledReference) {
  NumberPool pool(2, "thing");
  std::vector<int32_t> held = {0, 0};
  pool.check_invariants(held);
  held[static_cast<size_t>(pool.acquire())] = 1;
  pool.check_invariants(held);
  std::vector<int32_t> doubled = held;
  *std::max_element(doubled.begin(), doubled.end()) = 2;
  EXPECT_DEATH(pool.check_invariants(doubled), "held differ");
  EXPECT_DEATH(pool.check_invariants(std::vector<int32_t>{0, 0}), "held differ");
}

TEST(KvPages, GrowAndRelease) {
  EXPECT_EQ(pages_for_tokens(0), 0);
  EXPECT_EQ(pages_for_tokens(1), 1);
  EXPECT_EQ(pages_for_tokens(64), 1);
  EXPECT_EQ(pages_for_tokens(65), 2);
  KvPages pages(4);
  std::vector<int32_t> mine;
  pages.grow(mine, 3);
  pages.grow(mine, 2);
  EXPECT_EQ(mine.size(), 3u);
  EXPECT_EQ(pages.num_free(), 1);
  pages.release_all(mine);
  EXPECT_TRUE(mine.empty());
  EXPECT_EQ(pages.num_free(), 4);
}

TEST(StateSlots, AFreshSlotReadsTheZeroState) {
  StateSlots slots(1);
  StateHandle first = slots.acquire();
  EXPECT_EQ(first.read_slot(), device::kZeroState);
  EXPECT_EQ(first.write_slot(), 0);
  first.holds_state = true;
  EXPECT_EQ(first.read_slot(), 0);
  const StateHandle stale = first;
  slots.release(first);
  EXPECT_FALSE(first.is_valid());
  const StateHandle second = slots.acquire();
  EXPECT_EQ(second.slot, stale.slot);
  EXPECT_EQ(second.read_slot(), device::kZeroState) << "what the last owner left is not read";
  EXPECT_FALSE(slots.is_live(stale));
  EXPECT_TRUE(slots.is_live(second));
}

/// Safe by trying every order.
bool safe_by_enumeration(int32_t free_pages, std::vector<PageClaim> claims) {
  std::vector<size_t> order(claims.size());
  std::iota(order.begin(), order.end(), size_t{0});
  do {
    int32_t available = free_pages;
    bool works = true;
    for (const size_t i : order) {
      works = works && claims[i].missing() <= available;
      available += claims[i].held;
    }
    if (works) return true;
  } while (std::next_permutation(order.begin(), order.end()));
  return false;
}

TEST(PageClaims, SafetyAgreesWithEveryOrder) {
  Rng rng(3);
  int safe = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<PageClaim> claims(1 + rng.below(5));
    for (PageClaim& claim : claims) {
      claim.held = static_cast<int32_t>(rng.below(6));
      claim.limit = claim.held + static_cast<int32_t>(rng.below(10));
    }
    const auto free_pages = static_cast<int32_t>(rng.below(10));
    const bool expected = safe_by_enumeration(free_pages, claims);
    EXPECT_EQ(claims_are_safe(free_pages, claims), expected);
    safe += expected ? 1 : 0;
  }
  EXPECT_GT(safe, 500);
  EXPECT_LT(safe, 2800);
}

}  // namespace
}  // namespace nibble::runtime
