// Tests for UTF-8: every code point round-trips, invalid parts follow Unicode 15 section 3.9.
#include "base/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

std::string repeated_replacement(int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += kReplacement;
  return out;
}

TEST(Utf8, EveryScalarValueRoundTrips) {
  for (uint32_t code_point = 0; code_point <= 0x10FFFF; ++code_point) {
    if (code_point >= 0xD800 && code_point <= 0xDFFF) continue;
    std::string text;
    append_utf8(text, code_point);
    const Utf8Step step = decode_utf8(text);
    ASSERT_TRUE(step.valid) << code_point;
    ASSERT_EQ(step.code_point, code_point);
    ASSERT_EQ(static_cast<size_t>(step.length), text.size());
    ASSERT_EQ(text.size(), code_point < 0x80      ? 1u
                           : code_point < 0x800   ? 2u
                           : code_point < 0x10000 ? 3u
                                                  : 4u);
  }
}

TEST(Utf8, EveryProperPrefixIsIncomplete) {
  for (const std::string text : {"\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"}) {
    for (size_t length = 1; length < text.size(); ++length) {
      const Utf8Step step = decode_utf8(std::string_view(text).substr(0, length));
      EXPECT_FALSE(step.valid);
      EXPECT_TRUE(step.incomplete);
      EXPECT_EQ(static_cast<size_t>(step.length), length);
    }
  }
}

TEST(Utf8, MaximalSubpartsBecomeOneReplacementEach) {
  // Unicode 15, table 3-8: one U+FFFD for each of the three maximal subparts.
  EXPECT_EQ(replace_invalid_utf8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"),
            repeated_replacement(4) + "A");
  // Table 3-11: overlong forms give one replacement per byte.
  EXPECT_EQ(replace_invalid_utf8("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"),
            repeated_replacement(8) + "A");
  // Surrogates and code points above U+10FFFF: the lead byte alone, then each continuation.
  EXPECT_EQ(replace_invalid_utf8("\xed\xa0\x80"), repeated_replacement(3));
  EXPECT_EQ(replace_invalid_utf8("\xf4\x90\x80\x80"), repeated_replacement(4));
  EXPECT_EQ(replace_invalid_utf8("a\xff"
                                 "b"),
            std::string("a") + kReplacement + "b");
}

TEST(Utf8, ValidationAgreesWithReplacement) {
  for (const std::string text : {"", "plain", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"}) {
    EXPECT_TRUE(is_valid_utf8(text));
    EXPECT_EQ(replace_invalid_utf8(text), text);
  }
  for (const std::string text : {"\x80", "a\xc3", "\xf5\x80\x80\x80", "\xed\xbf\xbf"}) {
    EXPECT_FALSE(is_valid_utf8(text));
    EXPECT_TRUE(is_valid_utf8(replace_invalid_utf8(text)));
  }
}

TEST(Utf8, BrokenButNotIncomplete) {
  EXPECT_FALSE(decode_utf8("\xe2\x41").incomplete);
  EXPECT_FALSE(decode_utf8("\xff").incomplete);
}

}  // namespace
}  // namespace nibble
