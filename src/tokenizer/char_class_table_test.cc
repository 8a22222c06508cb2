// Tests for char_class_table and unicode_tables: the table against the ranges, and known
// characters.
#include "tokenizer/char_class_table.h"

#include <gtest/gtest.h>

namespace nibble::tokenizer {
namespace {

TEST(CharClassTable, AgreesWithTheRangesOnEveryCodePoint) {
  const CharClassTable table;
  uint32_t next = 0;
  for (const CharClassRange& range : char_class_ranges()) {
    for (; next < range.first; ++next) ASSERT_EQ(table.at(next), CharClass::other) << next;
    ASSERT_LE(range.first, range.last);
    for (; next <= range.last; ++next) ASSERT_EQ(table.at(next), range.char_class) << next;
  }
  for (; next < 0x110000; ++next) ASSERT_EQ(table.at(next), CharClass::other) << next;
}

TEST(CharClassTable, KnowsCharactersOfOldAndNewUnicodeVersions) {
  const CharClassTable table;
  EXPECT_EQ(table.at('a'), CharClass::letter);
  EXPECT_EQ(table.at(0x4E00), CharClass::letter);
  EXPECT_EQ(table.at(0x1C89), CharClass::letter);  // Unicode 16
  EXPECT_EQ(table.at(0x0301), CharClass::mark);
  EXPECT_EQ(table.at(0x0897), CharClass::mark);  // Unicode 16
  EXPECT_EQ(table.at('7'), CharClass::number);
  EXPECT_EQ(table.at(0x00BD), CharClass::number);
  EXPECT_EQ(table.at(0x10D40), CharClass::number);  // Unicode 16
  EXPECT_EQ(table.at(0x00A0), CharClass::space);
  EXPECT_EQ(table.at(0x0085), CharClass::space);
  EXPECT_EQ(table.at(0x180E), CharClass::other);  // was a space until Unicode 6.3
  EXPECT_EQ(table.at(0x200D), CharClass::other);
}

TEST(UnicodeTables, InertRangesAreSortedAndDisjoint) {
  uint32_t next = 0;
  for (const CodePointRange& range : nfc_inert_ranges()) {
    ASSERT_LE(next, range.first);
    ASSERT_LE(range.first, range.last);
    next = range.last + 1;
  }
}

}  // namespace
}  // namespace nibble::tokenizer
