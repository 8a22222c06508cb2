// Tests for bpe: both algorithms against a naive one on random merge lists, and long pieces in
// time.
#include "tokenizer/bpe.h"

#include "base/rng.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <numeric>
#include <string>
#include <utility>

namespace nibble::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

std::array<int32_t, 256> identity_bytes() {
  std::array<int32_t, 256> ids{};
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

// The definition: the leftmost pair of the lowest rank, again and again.
Ids encode_naively(std::string_view piece, const std::vector<Merge>& merges) {
  std::map<std::pair<int32_t, int32_t>, size_t> ranks;
  for (size_t i = 0; i < merges.size(); ++i) ranks[{merges[i].left, merges[i].right}] = i;
  Ids ids;
  for (const char c : piece) ids.push_back(static_cast<uint8_t>(c));
  while (true) {
    size_t best = merges.size(), at = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = ranks.find({ids[i], ids[i + 1]});
      if (found != ranks.end() && found->second < best) best = found->second, at = i;
    }
    if (best == merges.size()) return ids;
    ids[at] = merges[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

// Random merges over the letters a..c: pairs of anything made so far, each pair once.
std::vector<Merge> random_merges(Rng& rng, size_t count) {
  std::vector<Merge> merges;
  std::vector<std::string> tokens = {"a", "b", "c"};
  std::map<std::string, int32_t> ids = {{"a", 'a'}, {"b", 'b'}, {"c", 'c'}};
  std::map<std::pair<int32_t, int32_t>, bool> seen;
  while (merges.size() < count) {
    const std::string left = tokens[rng.below(tokens.size())];
    const std::string right = tokens[rng.below(tokens.size())];
    if (left.size() + right.size() > 12) continue;
    if (std::exchange(seen[{ids[left], ids[right]}], true)) continue;
    const auto next = static_cast<int32_t>(256 + ids.size());
    const auto [it, is_new] = ids.emplace(left + right, next);
    if (is_new) tokens.push_back(left + right);
    merges.push_back({ids[left], ids[right], it->second});
  }
  return merges;
}

Bpe make_bpe(const std::vector<Merge>& merges) {
  Bpe bpe(identity_bytes(), merges.size());
  for (const Merge& merge : merges) EXPECT_TRUE(bpe.add_merge(merge));
  return bpe;
}

TEST(Bpe, AgreesWithTheDefinitionShortAndLong) {
  Rng rng(1);
  BpeScratch scratch;
  for (int round = 0; round < 60; ++round) {
    const auto merges = random_merges(rng, 1 + rng.below(40));
    const Bpe bpe = make_bpe(merges);
    for (int i = 0; i < 30; ++i) {
      // Lengths on both sides of the border between the two algorithms.
      std::string piece(1 + rng.below(3 * Bpe::kLongestScan), 'a');
      for (char& c : piece) c = static_cast<char>('a' + rng.below(3));
      Ids ids;
      bpe.encode(piece, scratch, ids);
      ASSERT_EQ(ids, encode_naively(piece, merges)) << piece;
    }
  }
}

TEST(Bpe, TheLeftmostOfEqualPairsMergesFirst) {
  BpeScratch scratch;
  const Bpe bpe = make_bpe({{'a', 'a', 256}});
  Ids ids;
  bpe.encode("aaa", scratch, ids);
  EXPECT_EQ(ids, (Ids{256, 'a'}));
  ids.clear();
  bpe.encode(std::string(Bpe::kLongestScan + 1, 'a'), scratch, ids);
  EXPECT_EQ(ids.size(), Bpe::kLongestScan / 2 + 1);
  EXPECT_EQ(ids.back(), 'a');
}

TEST(Bpe, APairIsAcceptedOnce) {
  Bpe bpe(identity_bytes(), 2);
  EXPECT_TRUE(bpe.add_merge({'a', 'b', 256}));
  EXPECT_FALSE(bpe.add_merge({'a', 'b', 257}));
}

TEST(Bpe, AMillionBytesOfOneWordTakeLittleTime) {
  // Doubling merges: every level of the word merges completely, the worst case for a scan.
  std::vector<Merge> merges = {{'a', 'a', 256}};
  for (int32_t i = 0; i < 12; ++i) merges.push_back({256 + i, 256 + i, 257 + i});
  const Bpe bpe = make_bpe(merges);
  BpeScratch scratch;
  Ids ids;
  const auto start = std::chrono::steady_clock::now();
  bpe.encode(std::string(1 << 20, 'a'), scratch, ids);
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(ids, Ids((1 << 20) >> 13, 256 + 12));
  // 0.2 s on a 2.6 GHz core; a quadratic algorithm needs minutes, a sanitizer build several times
  // more.
  EXPECT_LT(elapsed.count(), 20.0);
}

}  // namespace
}  // namespace nibble::tokenizer
