// Tests for pre_tokenizer: each alternative of the pattern, both patterns, every code point, and
// inputs on which a backtracking matcher would be slow.
//
// Expected pieces were taken from tokenizers 0.23.3; the goldens hold several hundred more.
#include "tokenizer/pre_tokenizer.h"

#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace nibble::tokenizer {
namespace {

using Pieces = std::vector<std::string>;

Pieces split(std::string_view text, std::string_view pattern = kPatternMarksJoinLetters) {
  const auto pre_tokenizer = PreTokenizer::from_pattern(pattern, "test");
  Pieces pieces;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = pre_tokenizer.value().piece_end(text, begin);
    EXPECT_GT(end, begin);
    pieces.emplace_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

TEST(PreTokenizer, WordsTakeOneCharacterBeforeThem) {
  EXPECT_EQ(split("Hello, world!"), (Pieces{"Hello", ",", " world", "!"}));
  EXPECT_EQ(split("(foo)[bar]"), (Pieces{"(foo", ")[", "bar", "]"}));
  EXPECT_EQ(split("a\tb"), (Pieces{"a", "\tb"}));
  EXPECT_EQ(split("\nb"), (Pieces{"\n", "b"}));
}

TEST(PreTokenizer, Contractions) {
  EXPECT_EQ(split("it's they'VE we'Ll x'st"),
            (Pieces{"it", "'s", " they", "'VE", " we", "'Ll", " x", "'s", "t"}));
  EXPECT_EQ(split("x'\u017Ft"), (Pieces{"x", "'\u017F", "t"}));
  EXPECT_EQ(split("'r 'v 'l"), (Pieces{"'r", " '", "v", " '", "l"}));
  EXPECT_EQ(split("x\u2019s"), (Pieces{"x", "\u2019s"}));
}

TEST(PreTokenizer, DigitsStandAlone) {
  EXPECT_EQ(split("12 3\u00BD"), (Pieces{"1", "2", " ", "3", "\u00BD"}));
}

TEST(PreTokenizer, PunctuationTakesASpaceBeforeAndNewlinesAfter) {
  EXPECT_EQ(split("a ?!\r\n\n b"), (Pieces{"a", " ?!\r\n\n", " b"}));
  EXPECT_EQ(split("\u00A0!"), (Pieces{"\u00A0", "!"}));
}

TEST(PreTokenizer, WhitespaceRuns) {
  EXPECT_EQ(split("a   b"), (Pieces{"a", "  ", " b"}));
  EXPECT_EQ(split("a  "), (Pieces{"a", "  "}));
  EXPECT_EQ(split("a \n \r\n  b"), (Pieces{"a", " \n \r\n", " ", " b"}));
  EXPECT_EQ(split("  1"), (Pieces{" ", " ", "1"}));
  EXPECT_EQ(split("\u3000\u3000x"), (Pieces{"\u3000", "\u3000x"}));
}

TEST(PreTokenizer, MarksBelongToWordsOnlyInTheNewerPattern) {
  EXPECT_EQ(split("x\u0301y"), (Pieces{"x\u0301y"}));
  EXPECT_EQ(split("!\u0301 \u0301a"), (Pieces{"!\u0301", " \u0301a"}));
  EXPECT_EQ(split("x\u0301y", kPatternLettersOnly), (Pieces{"x", "\u0301y"}));
  EXPECT_EQ(split("x\u0301\u0301", kPatternLettersOnly), (Pieces{"x", "\u0301\u0301"}));
}

TEST(PreTokenizer, EveryCodePointIsCutSomewhereAndNeverInside) {
  std::string text;
  size_t characters = 0;
  for (uint32_t c = 1; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    append_utf8(text, c);
    ++characters;
  }
  for (const auto pattern : {kPatternMarksJoinLetters, kPatternLettersOnly}) {
    std::string joined;
    for (const std::string& piece : split(text, pattern)) {
      ASSERT_TRUE(is_valid_utf8(piece));
      joined += piece;
    }
    EXPECT_EQ(joined, text);
  }
  EXPECT_EQ(characters, 0x110000u - 2048 - 1);
}

TEST(PreTokenizer, LongRunsAreCutInOneStep) {
  const size_t length = 1000000;
  EXPECT_EQ(split(std::string(length, ' ')).size(), 1u);
  EXPECT_EQ(split(std::string(length, ' ') + "a").size(), 2u);
  EXPECT_EQ(split(std::string(length, 'a')).size(), 1u);
  EXPECT_EQ(split(std::string(length, '\n')).size(), 1u);
  EXPECT_EQ(split(std::string(length, '!') + "\n").size(), 1u);
  EXPECT_EQ(split(std::string(length, '1')).size(), length);
}

TEST(PreTokenizer, RefusesAnUnknownPatternAndNamesTheKnownOnes) {
  const auto result = PreTokenizer::from_pattern("\\w+|\\W+", "x.json");
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("x.json: split pattern \\w+|\\W+"), std::string::npos);
  EXPECT_NE(result.error().message.find(kPatternMarksJoinLetters), std::string::npos);
}

}  // namespace
}  // namespace nibble::tokenizer
