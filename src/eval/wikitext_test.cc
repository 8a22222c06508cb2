// Tests for the WikiText rules, one case a rule; texts of our own in the form of the file.
#include "eval/wikitext.h"

#include <gtest/gtest.h>

namespace nibble::eval {
namespace {

TEST(Wikitext, ArticlesBeginAtTopLevelHeadings) {
  const auto articles = split_articles(
      " \n = First = \n \n Text . \n = = Part = = \n More . \n = Second One = \n \n End .\n");
  ASSERT_EQ(articles.size(), 2u);
  EXPECT_EQ(articles[0], " = First = \n \n Text . \n = = Part = = \n More . \n");
  EXPECT_EQ(articles[1], " = Second One = \n \n End .\n");
  EXPECT_EQ(split_articles("no heading").size(), 1u);
  EXPECT_TRUE(split_articles(" \n\n").empty());
}

TEST(Wikitext, Detokenize) {
  EXPECT_EQ(detokenize_article("the dogs ' tails"), "the dogs' tails");
  EXPECT_EQ(detokenize_article("a well @-@ known 1 @,@ 000 at 2 @.@ 5"),
            "a well-known 1,000 at 2.5");
  EXPECT_EQ(detokenize_article("So : one ; two , three . Why ? Yes ! Ah"),
            "So: one; two, three. Why? Yes! Ah");
  EXPECT_EQ(detokenize_article("the end ."), "the end .");  // no space follows
  EXPECT_EQ(detokenize_article("a ( b ) [  c ] { d }"), "a (b) [c] {d}");
  EXPECT_EQ(detokenize_article("said \" go \" and \" come \" ."), "said \"go\" and \"come\" .");
  EXPECT_EQ(detokenize_article("an ' odd ' word"), "an 'odd' word");
  EXPECT_EQ(detokenize_article("( open"), "( open");
  EXPECT_EQ(detokenize_article("= = = Deep = = ="), "=== Deep ===");
  EXPECT_EQ(detokenize_article("30 \xC2\xB0 C"),
            "30\xC2\xB0"
            "C");
  EXPECT_EQ(detokenize_article("one \n two"), "one\ntwo");
  EXPECT_EQ(detokenize_article("at N degrees , Tom 's"), "at 1 degrees, Tom's");
}

TEST(Wikitext, WhiteSpaceInsidePairsIsUnicode) {
  EXPECT_EQ(detokenize_article("(\xC2\xA0 a \xE2\x80\x89)"), "(a)");
}

TEST(Wikitext, WordsCountEmptyPiecesAtTheEnds) {
  EXPECT_EQ(count_words("one two"), 2);
  EXPECT_EQ(count_words(" one \n two "), 4);
  EXPECT_EQ(count_words("a\xC2\xA0"
                        "b"),
            2);
  EXPECT_EQ(count_words(""), 1);
}

}  // namespace
}  // namespace nibble::eval
