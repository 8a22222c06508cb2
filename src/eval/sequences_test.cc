// Tests for the cuts of a tokenized text: every mode's windows, counted by hand.
#include "eval/sequences.h"

#include <gtest/gtest.h>

#include <numeric>

namespace nibble::eval {
namespace {

std::vector<int32_t> counted(int32_t count) {
  std::vector<int32_t> out(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), 0);
  return out;
}

using Tokens = std::vector<int32_t>;

TEST(Sequences, HalfScoredWindows) {
  const auto windows = half_scored_windows(counted(19), 8).value();
  ASSERT_EQ(windows.size(), 2u);  // three tokens at the end are dropped
  EXPECT_EQ(windows[1].tokens, (Tokens{8, 9, 10, 11, 12, 13, 14, 15}));
  // Rows 4, 5, 6 predict tokens 5, 6, 7: context - 1 - context / 2 of them.
  EXPECT_EQ(windows[1].first_scored, 5);
  EXPECT_EQ(windows[1].scored_tokens(), 3);
  EXPECT_EQ(windows[1].rows(), 7);
  EXPECT_EQ(total_scored_tokens(windows), 6);
  EXPECT_EQ(half_scored_windows(counted(1024), 512).value()[0].scored_tokens(), 255);
}

TEST(Sequences, TooLittleTextIsRefused) {
  const auto refused = half_scored_windows(counted(15), 8);
  ASSERT_FALSE(refused.ok());
  EXPECT_NE(refused.error().message.find("15 tokens, expected at least 16"), std::string::npos);
  EXPECT_FALSE(half_scored_windows(counted(100), 3).ok());
}

TEST(Sequences, SlidingWindowsScoreEveryTokenOnce) {
  const auto windows = sliding_windows(counted(17), 8, 3).value();
  ASSERT_EQ(windows.size(), 4u);  // at 0, 3, 6, 9
  EXPECT_EQ(windows[0].first_scored, 1);
  Tokens scored;
  for (const ScoredSequence& window : windows) {
    EXPECT_EQ(window.length(), 8);
    scored.insert(scored.end(), window.tokens.begin() + window.first_scored, window.tokens.end());
  }
  Tokens expected = counted(17);
  expected.erase(expected.begin());
  EXPECT_EQ(scored, expected);
  EXPECT_FALSE(sliding_windows(counted(17), 8, 8).ok());
  EXPECT_FALSE(sliding_windows(counted(17), 8, 0).ok());
  EXPECT_FALSE(sliding_windows(counted(7), 8, 3).ok());
}

TEST(Sequences, RollingWindowsScoreEveryTokenOnceWithFullContext) {
  const auto windows = rolling_windows(counted(10), 99, 4);
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_EQ(windows[0].tokens, (Tokens{99, 0, 1, 2, 3}));
  EXPECT_EQ(windows[0].first_scored, 1);
  EXPECT_EQ(windows[1].tokens, (Tokens{3, 4, 5, 6, 7}));
  EXPECT_EQ(windows[1].first_scored, 1);
  // The short last window still sees four tokens.
  EXPECT_EQ(windows[2].tokens, (Tokens{5, 6, 7, 8, 9}));
  EXPECT_EQ(windows[2].first_scored, 3);
  EXPECT_EQ(rolling_windows(counted(3), 99, 4)[0].tokens, (Tokens{99, 0, 1, 2}));
  EXPECT_TRUE(rolling_windows({}, 99, 4).empty());
}

TEST(Sequences, DigestSeesTokensCutsAndRanges) {
  const std::vector<ScoredSequence> one = {{{1, 2, 3, 4}, 1}};
  const std::vector<ScoredSequence> other_range = {{{1, 2, 3, 4}, 2}};
  const std::vector<ScoredSequence> other_cut = {{{1, 2}, 1}, {{3, 4}, 1}};
  EXPECT_EQ(sequences_digest(one), sequences_digest(std::vector<ScoredSequence>(one)));
  EXPECT_NE(sequences_digest(one), sequences_digest(other_range));
  EXPECT_NE(sequences_digest(one), sequences_digest(other_cut));
}

}  // namespace
}  // namespace nibble::eval
