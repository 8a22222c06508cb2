// Tests for incremental_decoder: what is held back, what is released, and that nothing is lost.
#include "tokenizer/incremental_decoder.h"

#include "base/rng.h"
#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

namespace nibble::tokenizer {
namespace {

using Pieces = std::vector<std::string>;

constexpr int32_t kEnd = 256;  // special
constexpr int32_t kNote = 257;  // not special

class IncrementalDecoderTest : public testing::Test {
 protected:
  // The increments, then what flush() gave.
  Pieces stream(const std::vector<int32_t>& ids, SkipSpecial skip) const {
    IncrementalDecoder decoder(tokenizer_, skip);
    Pieces out;
    for (const int32_t id : ids) out.push_back(decoder.feed(id));
    out.push_back(decoder.flush());
    return out;
  }

  Tokenizer tokenizer_ = Tokenizer::parse(dump_json(test::tiny_tokenizer_json({})), "").value();
};

TEST_F(IncrementalDecoderTest, HoldsBackUntilACharacterIsComplete) {
  EXPECT_EQ(stream({0xF0, 0x9F, 0x98, 0x80, 'x'}, SkipSpecial::no),
            (Pieces{"", "", "", "\U0001F600", "x", ""}));
}

TEST_F(IncrementalDecoderTest, FlushReplacesWhatIsCutOff) {
  EXPECT_EQ(stream({0xF0, 0x9F}, SkipSpecial::no), (Pieces{"", "", "\uFFFD"}));
}

TEST_F(IncrementalDecoderTest, ReleasesInvalidPartsAtOnce) {
  EXPECT_EQ(stream({0xC0, 0xF0, 0x9F, 'A', 0x98}, SkipSpecial::no),
            (Pieces{"\uFFFD", "", "", "\uFFFDA", "\uFFFD", ""}));
  EXPECT_EQ(stream({0xF4, 0x90}, SkipSpecial::no), (Pieces{"", "\uFFFD\uFFFD", ""}));
}

TEST_F(IncrementalDecoderTest, EncodedSurrogatesComeOutTogether) {
  EXPECT_EQ(stream({0xED, 0xA0, 0x80}, SkipSpecial::no),
            (Pieces{"", "", "\uFFFD\uFFFD\uFFFD", ""}));
  EXPECT_EQ(stream({0xED, 0xA0}, SkipSpecial::no), (Pieces{"", "", "\uFFFD\uFFFD"}));
}

TEST_F(IncrementalDecoderTest, SpecialTokensBreakCharactersOnlyWhenShown) {
  const std::vector<int32_t> ids = {0xC3, kEnd, 0xA9, kNote};
  EXPECT_EQ(stream(ids, SkipSpecial::yes), (Pieces{"", "", "\u00E9", "<note>", ""}));
  EXPECT_EQ(stream(ids, SkipSpecial::no), (Pieces{"", "\uFFFD<|end|>", "\uFFFD", "<note>", ""}));
}

TEST_F(IncrementalDecoderTest, IncrementsJoinToTheDecodedText) {
  Rng rng(5);
  for (int round = 0; round < 2000; ++round) {
    std::vector<int32_t> ids(rng.below(12));
    for (int32_t& id : ids) id = static_cast<int32_t>(0x70 + rng.below(kNote + 3 - 0x70));
    for (const auto skip : {SkipSpecial::no, SkipSpecial::yes}) {
      std::string joined;
      for (const std::string& piece : stream(ids, skip)) joined += piece;
      ASSERT_EQ(joined, tokenizer_.decode(ids, skip));
    }
  }
}

}  // namespace
}  // namespace nibble::tokenizer
