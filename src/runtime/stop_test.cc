// Tests of stop strings: hold-back, matches across pieces, independence of how the text is cut.
#include "runtime/stop.h"

#include "base/rng.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace nibble::runtime {
namespace {

struct Outcome {
  std::string text;
  std::optional<std::string> match;
  bool operator==(const Outcome&) const = default;
};

Outcome feed_all(const std::vector<std::string>& stops, const std::vector<std::string>& pieces,
                 IncludeStop include = IncludeStop::no) {
  StopStrings matcher(stops, include);
  Outcome outcome;
  for (const std::string& piece : pieces) {
    if (const std::string* match = matcher.feed(piece, outcome.text)) {
      outcome.match = *match;
      return outcome;
    }
  }
  matcher.flush(outcome.text);
  return outcome;
}

TEST(StopStrings, MatchesAcrossPieces) {
  EXPECT_EQ(feed_all({"END"}, {"one E", "N", "D two"}), (Outcome{"one ", "END"}));
  EXPECT_EQ(feed_all({"END"}, {"one E", "N", "D two"}, IncludeStop::yes),
            (Outcome{"one END", "END"}));
  EXPECT_EQ(feed_all({"END"}, {"one E", "Nd", " two"}), (Outcome{"one ENd two", std::nullopt}));
  EXPECT_EQ(feed_all({"\n\n"}, {"a\n", "b\n", "\n", "c"}), (Outcome{"a\nb", "\n\n"}));
}

TEST(StopStrings, HoldsBackOnlyWhatMayBecomeAMatch) {
  StopStrings matcher({"</tool>", "###"}, IncludeStop::no);
  std::string text;
  EXPECT_EQ(matcher.feed("abc</to", text), nullptr);
  EXPECT_EQ(text, "abc");
  EXPECT_EQ(matcher.feed("m", text), nullptr);
  EXPECT_EQ(text, "abc</tom");
  EXPECT_EQ(matcher.feed("##", text), nullptr);
  EXPECT_EQ(text, "abc</tom");
  matcher.flush(text);
  EXPECT_EQ(text, "abc</tom##");
}

TEST(StopStrings, TheMatchThatEndsFirstWinsAndTheLongerOnATie) {
  EXPECT_EQ(feed_all({"abcd", "bc"}, {"xabcd"}), (Outcome{"xa", "bc"}));
  EXPECT_EQ(feed_all({"bc", "abc"}, {"xabcd"}), (Outcome{"x", "abc"}));
  EXPECT_EQ(feed_all({"aab"}, {"a", "a", "a", "b"}), (Outcome{"a", "aab"}));
}

TEST(StopStrings, WithoutStringsNothingIsHeld) {
  EXPECT_EQ(feed_all({}, {"a", "b"}), (Outcome{"ab", std::nullopt}));
}

TEST(StopStrings, UnmatchedTextPassesButItsEndMayBeginAMatch) {
  StopStrings matcher({"stop"}, IncludeStop::no);
  std::string text;
  matcher.feed_unmatched("stop here, st", text);
  EXPECT_EQ(text, "stop here, ");
  ASSERT_NE(matcher.feed("op", text), nullptr);
  EXPECT_EQ(text, "stop here, ");
}

TEST(StopStrings, TheCutOfTheTextDoesNotMatter) {
  Rng rng(11);
  const auto random_text = [&](uint64_t length) {
    std::string text;
    for (uint64_t i = 0; i < length; ++i) text += static_cast<char>('a' + rng.below(3));
    return text;
  };
  int matched = 0;
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::string> stops;
    for (uint64_t n = rng.below(4); n > 0; --n) stops.push_back(random_text(1 + rng.below(6)));
    const std::string text = random_text(rng.below(60));
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      pieces.push_back(text.substr(at, rng.below(6)));
      at += pieces.back().size();
    }
    const Outcome whole = feed_all(stops, {text});
    EXPECT_EQ(feed_all(stops, pieces), whole);
    matched += whole.match ? 1 : 0;
    if (!whole.match) {
      EXPECT_EQ(whole.text, text);
      for (const std::string& stop : stops) EXPECT_EQ(text.find(stop), std::string::npos);
    }
  }
  EXPECT_GT(matched, 500);
}

}  // namespace
}  // namespace nibble::runtime
