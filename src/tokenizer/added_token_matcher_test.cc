// Tests for added_token_matcher: leftmost, then longest, and nothing else.
#include "tokenizer/added_token_matcher.h"

#include <gtest/gtest.h>

namespace nibble::tokenizer {
namespace {

Vocabulary sample() {
  Vocabulary vocabulary;
  const TokenKind added{.is_added = true};
  EXPECT_TRUE(vocabulary.add(0, "<a>", {.is_base = true}, "test").ok());
  EXPECT_TRUE(vocabulary.add(1, "<b>", added, "test").ok());
  EXPECT_TRUE(vocabulary.add(2, "<b><c>", added, "test").ok());
  EXPECT_TRUE(vocabulary.add(3, "b>", added, "test").ok());
  return vocabulary;
}

TEST(AddedTokenMatcher, LeftmostThenLongest) {
  const Vocabulary vocabulary = sample();
  const AddedTokenMatcher matcher(vocabulary);
  const AddedTokenMatch first = matcher.find("x<b><b><c>", 0, vocabulary);
  EXPECT_EQ(first.id, 1);
  EXPECT_EQ(first.begin, 1u);
  EXPECT_EQ(first.end, 4u);
  const AddedTokenMatch second = matcher.find("x<b><b><c>", first.end, vocabulary);
  EXPECT_EQ(second.id, 2);
  EXPECT_EQ(second.end, 10u);
}

TEST(AddedTokenMatcher, OrdinaryTokensAndCutOffOnesDoNotMatch) {
  const Vocabulary vocabulary = sample();
  const AddedTokenMatcher matcher(vocabulary);
  const AddedTokenMatch none = matcher.find("<a> <b", 0, vocabulary);
  EXPECT_EQ(none.id, -1);
  EXPECT_EQ(none.begin, 6u);
  EXPECT_EQ(none.end, 6u);
  EXPECT_EQ(matcher.find("", 0, vocabulary).id, -1);
}

}  // namespace
}  // namespace nibble::tokenizer
