// Tests for normalizer: compositions, order of marks, Hangul, and what the reference leaves alone.
#include "tokenizer/normalizer.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble::tokenizer {
namespace {

TEST(Normalizer, PlainTextIsRecognised) {
  EXPECT_TRUE(is_plainly_nfc(""));
  EXPECT_TRUE(is_plainly_nfc("na\u00EFve \u02FF"));
  EXPECT_FALSE(is_plainly_nfc("e\u0300"));
  EXPECT_FALSE(is_plainly_nfc("\u4F60"));
}

TEST(Normalizer, ComposesAndReorders) {
  EXPECT_EQ(normalize_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(normalize_nfc("q\u0307\u0323"), "q\u0323\u0307");
  EXPECT_EQ(normalize_nfc("\u1E9B\u0323"), "\u1E9B\u0323");
  EXPECT_EQ(normalize_nfc("\u212B \u2126"), "\u00C5 \u03A9");
  EXPECT_EQ(normalize_nfc("\u0958"), "\u0915\u093C");  // excluded from composition
  EXPECT_EQ(normalize_nfc("\u1100\u1161\u11A8"), "\uAC01");
  EXPECT_EQ(normalize_nfc("\uFB01"), "\uFB01");  // compatibility forms stay
}

TEST(Normalizer, NeitherNewMarksNorLibraryDefectsChangeText) {
  // U+0898 (Unicode 14) has a combining class in utf8proc and none in the reference's NFC.
  EXPECT_EQ(normalize_nfc("a\u0898\u0323"), "a\u0898\u0323");
  EXPECT_EQ(normalize_nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(normalize_nfc("\uAC00\u11A7"), "\uAC00\u11A7");  // utf8proc 2.8 alone drops the second
}

TEST(Normalizer, TextAroundAnInertMarkIsStillNormalized) {
  EXPECT_EQ(normalize_nfc("e\u0301\u0898e\u0301"), "\u00E9\u0898\u00E9");
}

TEST(Normalizer, ALongRunOfMarksIsSortedInGoodTime) {
  std::string text = "a";
  for (int i = 0; i < 500000; ++i) text += i % 2 == 0 ? "\u0301" : "\u0323";
  const std::string normalized = normalize_nfc(text);
  EXPECT_TRUE(normalized.starts_with("\u1EA1\u0323"));
  EXPECT_TRUE(normalized.ends_with("\u0301"));
}

}  // namespace
}  // namespace nibble::tokenizer
