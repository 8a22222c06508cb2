// Tests for vocabulary: lookup both ways, contradictions, and the byte-level alphabet.
#include "tokenizer/vocabulary.h"

#include <gtest/gtest.h>

#include <set>

namespace nibble::tokenizer {
namespace {

constexpr TokenKind kBase{.is_base = true};
constexpr TokenKind kAddedSpecial{.is_added = true, .is_special = true};

TEST(Vocabulary, FindsBothWaysAcrossHolesAndGrowth) {
  Vocabulary vocabulary;
  EXPECT_FALSE(vocabulary.find("a"));
  for (int32_t id = 0; id < 5000; ++id) {
    ASSERT_TRUE(vocabulary.add(3 * id, "token" + std::to_string(id), kBase, "test").ok());
  }
  EXPECT_EQ(vocabulary.size(), 3 * 4999 + 1);
  for (int32_t id = 0; id < 5000; ++id) {
    EXPECT_EQ(vocabulary.find("token" + std::to_string(id)), 3 * id);
    EXPECT_EQ(vocabulary.bytes(3 * id), "token" + std::to_string(id));
  }
  EXPECT_FALSE(vocabulary.contains(1));
  EXPECT_EQ(vocabulary.bytes(1), "");
  EXPECT_EQ(vocabulary.bytes(-1), "");
  EXPECT_EQ(vocabulary.bytes(1 << 30), "");
  EXPECT_FALSE(vocabulary.find("token5000"));
}

TEST(Vocabulary, TheSameTokenNamedTwiceMergesItsKinds) {
  Vocabulary vocabulary;
  ASSERT_TRUE(vocabulary.add(7, "<x>", kBase, "test").ok());
  ASSERT_TRUE(vocabulary.add(7, "<x>", kAddedSpecial, "test").ok());
  const TokenKind kind = vocabulary.kind(7);
  EXPECT_TRUE(kind.is_base && kind.is_added && kind.is_special);
}

TEST(Vocabulary, RefusesContradictions) {
  Vocabulary vocabulary;
  ASSERT_TRUE(vocabulary.add(7, "<x>", kBase, "test").ok());
  EXPECT_EQ(vocabulary.add(8, "<x>", kBase, "f").error().message,
            "f: token \"<x>\" has id 8, but also id 7");
  EXPECT_EQ(vocabulary.add(7, "<y>", kBase, "f").error().message,
            "f: id 7 belongs to both \"<x>\" and \"<y>\"");
  EXPECT_FALSE(vocabulary.add(-1, "a", kBase, "f").ok());
  EXPECT_FALSE(vocabulary.add(kMaxTokenId + 1, "a", kBase, "f").ok());
  EXPECT_FALSE(vocabulary.add(9, "", kBase, "f").ok());
}

TEST(ByteLevelAlphabet, EveryByteHasItsOwnStandIn) {
  std::set<std::string> seen;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    const std::string stand_in = stand_ins_of_bytes({&c, 1});
    EXPECT_TRUE(seen.insert(stand_in).second) << byte;
    std::string back;
    ASSERT_TRUE(append_stand_in_bytes(back, stand_in));
    EXPECT_EQ(back, std::string(1, c));
  }
  EXPECT_EQ(stand_ins_of_bytes(" \n~\xAD\x7F"), "\u0120\u010A~\u0143\u0121");
}

TEST(ByteLevelAlphabet, RefusesOtherCharacters) {
  std::string out;
  for (const char* text : {" ", "\n", "\u00AD", "\u0144", "\u4F60", "\xFF"}) {
    EXPECT_FALSE(append_stand_in_bytes(out, text));
  }
}

}  // namespace
}  // namespace nibble::tokenizer
