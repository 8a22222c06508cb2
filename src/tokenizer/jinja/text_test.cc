// Tests of Python's text functions beyond what the rendered cases cover.
#include "tokenizer/jinja/text.h"

#include <gtest/gtest.h>

namespace nibble::tokenizer::jinja {
namespace {

TEST(Text, CaseMappingsOfSeveralCharacters) {
  EXPECT_EQ(to_upper("stra\xC3\x9F"
                     "e"),
            "STRASSE");
  EXPECT_EQ(to_title("\xEF\xAC\x81x"), "Fix");  // the fi ligature
  EXPECT_EQ(to_lower("\xCE\x91\xCE\xA3"), "\xCE\xB1\xCF\x82");  // final sigma
  EXPECT_EQ(to_lower("\xCE\xA3\xCE\x91"), "\xCF\x83\xCE\xB1");
  EXPECT_EQ(fold_case("\xC3\x9F"), "ss");
}

TEST(Text, StripsUnicodeBlanks) {
  EXPECT_EQ(strip("\xC2\xA0 a\xE3\x80\x80\n", Side::both), "a");
  EXPECT_EQ(strip("xxaxx", Side::left, "x"), "axx");
  EXPECT_EQ(strip("\xC3\xA4"
                  "a\xC3\xA4",
                  Side::right, "\xC3\xA4"),
            "\xC3\xA4"
            "a");
  EXPECT_EQ(strip("  ", Side::both), "");
}

TEST(Text, SplitsFromBothSides) {
  using Parts = std::vector<std::string_view>;
  EXPECT_EQ(split("a,b,c", ",", 1), (Parts{"a", "b,c"}));
  EXPECT_EQ(split_right("a,b,c", ",", 1), (Parts{"a,b", "c"}));
  EXPECT_EQ(split("", ",", -1), (Parts{""}));
  EXPECT_EQ(split_space("  a  b c ", 1), (Parts{"a", "b c "}));
  EXPECT_EQ(split_space_right("  a  b c ", 1), (Parts{"  a  b", "c"}));
  EXPECT_EQ(split_lines("a\r\nb\n\nc", false), (Parts{"a", "b", "", "c"}));
}

TEST(Text, ReplacesAndCounts) {
  EXPECT_EQ(replace_all("\xC3\xA4"
                        "b",
                        "", "-", -1),
            "-\xC3\xA4-b-");
  EXPECT_EQ(replace_all("aaa", "a", "b", 2), "bba");
  EXPECT_EQ(count_occurrences("aaaa", "aa"), 2u);
}

TEST(Text, LengthsAndOffsetsInCodePoints) {
  EXPECT_EQ(text_length("a\xC3\xA4\xF0\x9F\x98\x80"), 3u);
  EXPECT_EQ(byte_offset("a\xC3\xA4\xF0\x9F\x98\x80", 2), 3u);
  EXPECT_EQ(byte_offset("ab", 9), 2u);
}

}  // namespace
}  // namespace nibble::tokenizer::jinja
