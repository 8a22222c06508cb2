// Tests for tokenizer: the demo model's files, a tiny tokenizer for every rule, and hostile input.
//
// The golden cases (testdata/goldens/tokenizer_demo) run in golden_runner. Runs from the repository
// root, where models/demo lies.
#include "tokenizer/tokenizer.h"

#include "base/rng.h"
#include "base/utf8.h"
#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <functional>
#include <thread>

namespace nibble::tokenizer {
namespace {

using Ids = std::vector<int32_t>;

Tokenizer tiny(const test::TinyMerges& merges) {
  auto result = Tokenizer::parse(dump_json(test::tiny_tokenizer_json(merges)), "");
  EXPECT_TRUE(result.ok());
  return std::move(result).value();
}

Tokenizer demo() {
  auto result = Tokenizer::load("models/demo");
  EXPECT_TRUE(result.ok()) << result.error().message;
  return std::move(result).value();
}

TEST(Tokenizer, LoadsTheDemoModelFromFolderAndFile) {
  const Tokenizer folder = demo();
  EXPECT_EQ(folder.vocab_size(), 3061);
  ASSERT_TRUE(folder.eos_token_id());
  EXPECT_EQ(folder.token_bytes(*folder.eos_token_id()), "<|im_end|>");
  EXPECT_TRUE(folder.is_special(*folder.eos_token_id()));
  EXPECT_FALSE(folder.bos_token_id());
  EXPECT_FALSE(folder.is_special(folder.token_id("<think>").value()));
  EXPECT_TRUE(folder.is_added(folder.token_id("<think>").value()));
  auto file = Tokenizer::load("models/demo/tokenizer.json");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_FALSE(file.value().eos_token_id());
  const std::string text = "<|im_start|>user\nHello there!<|im_end|>\n";
  EXPECT_EQ(file.value().encode(text, AddedTokens::parse), folder.encode(text, AddedTokens::parse));
}

TEST(Tokenizer, AddedTokensAreParsedOrLeftAsText) {
  const Tokenizer tokenizer = tiny({{"a", "b"}});
  EXPECT_EQ(tokenizer.encode("ab<|end|>b", AddedTokens::parse), (Ids{256, 257, 'b'}));
  EXPECT_EQ(tokenizer.encode("<note>", AddedTokens::parse), (Ids{258}));
  EXPECT_EQ(tokenizer.encode("<note>", AddedTokens::as_text), (Ids{'<', 'n', 'o', 't', 'e', '>'}));
  EXPECT_EQ(tokenizer.encode("", AddedTokens::parse), Ids{});
}

TEST(Tokenizer, MergesStayInsidePiecesAndFollowNormalization) {
  const Tokenizer tokenizer = tiny({{"b", " "}, {" ", "c"}, {"\xC3", "\xA9"}});
  EXPECT_EQ(tokenizer.encode("b c", AddedTokens::parse), (Ids{'b', 257}));
  EXPECT_EQ(tokenizer.encode("e\u0301", AddedTokens::parse), (Ids{258}));
}

TEST(Tokenizer, IgnoreMergesTakesWholePieces) {
  Json json = test::tiny_tokenizer_json({{"a", "b"}});
  json["model"]["vocab"]["abc"] = 300;
  auto plain = Tokenizer::parse(dump_json(json), "");
  EXPECT_EQ(plain.value().encode("abc", AddedTokens::parse), (Ids{256, 'c'}));
  json["model"]["ignore_merges"] = true;
  auto ignoring = Tokenizer::parse(dump_json(json), "");
  EXPECT_EQ(ignoring.value().encode("abc", AddedTokens::parse), (Ids{300}));
}

TEST(Tokenizer, InvalidUtf8CountsAsReplacementCharacters) {
  const Tokenizer tokenizer = demo();
  for (const auto& [bad, good] : {std::pair<std::string, std::string>{"a\xFFz", "a\uFFFDz"},
                                  {"\xF0\x9F\x98", "\uFFFD"},
                                  {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
                                  {"\xC0\xAF<think>", "\uFFFD\uFFFD<think>"}}) {
    EXPECT_EQ(tokenizer.encode(bad, AddedTokens::parse),
              tokenizer.encode(good, AddedTokens::parse));
    EXPECT_EQ(tokenizer.pre_tokenize(bad), tokenizer.pre_tokenize(good));
  }
}

TEST(Tokenizer, DecodingSkipsSpecialsAndUnknownIds) {
  const Tokenizer tokenizer = tiny({});
  const Ids ids = {'a', 0xC3, 256, 0xA9, 257, 99999, -5, 'b'};
  EXPECT_EQ(tokenizer.decode(ids, SkipSpecial::yes), "a\u00E9<note>b");
  EXPECT_EQ(tokenizer.decode(ids, SkipSpecial::no), "a\uFFFD<|end|>\uFFFD<note>b");
}

TEST(Tokenizer, EveryCodePointSurvivesTheWayThere) {
  const Tokenizer tokenizer = demo();
  std::string text;
  for (uint32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c <= 0xDFFF) continue;
    append_utf8(text, c);
  }
  std::string expected;
  for (const std::string& piece : tokenizer.pre_tokenize(text)) expected += piece;
  const Ids ids = tokenizer.encode(text, AddedTokens::as_text);
  EXPECT_EQ(tokenizer.decode(ids, SkipSpecial::no), expected);
}

TEST(Tokenizer, PathologicalTextsTakeLinearTime) {
  const Tokenizer tokenizer = demo();
  const size_t length = 1000000;
  std::string mixed;
  Rng rng(3);
  while (mixed.size() < length) mixed += static_cast<char>('a' + rng.below(26));
  std::string brackets;
  while (brackets.size() < length) brackets += "<|im_";
  for (const std::string& text :
       {std::string(length, ' '), std::string(length, 'a'), std::string(length, '\n'),
        std::string(length, '<'), std::string(length, '\xE4'), mixed, brackets}) {
    const Ids ids = tokenizer.encode(text, AddedTokens::parse);
    EXPECT_EQ(tokenizer.decode(ids, SkipSpecial::no), replace_invalid_utf8(text));
  }
}

TEST(Tokenizer, ManyThreadsShareOneTokenizer) {
  const Tokenizer tokenizer = demo();
  const std::string text = "Once upon a time there was a little fox. " + std::string(200, 'q');
  const Ids expected = tokenizer.encode(text, AddedTokens::parse);
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) EXPECT_EQ(tokenizer.encode(text, AddedTokens::parse), expected);
    });
  }
}

// Error of the tiny file after `change`.
std::string error_after(const std::function<void(Json&)>& change) {
  Json json = test::tiny_tokenizer_json({{"a", "b"}});
  change(json);
  const auto result = Tokenizer::parse(dump_json(json), "");
  return result.ok() ? "" : result.error().message;
}

TEST(Tokenizer, RefusesContradictoryVocabularies) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"].erase("a"); }),
            "tokenizer.json: model.vocab: no token for byte 0x61, expected all 256");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["\u4F60"] = 300; }),
            "tokenizer.json: model.vocab: \"\u4F60\" is not written in the byte-level alphabet");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["ab"] = -1; }),
            "tokenizer.json: model.vocab: \"ab\": found id -1, expected 0 to 1048575");
  EXPECT_EQ(error_after([](Json& j) {
              j["model"]["merges"] = {"a b", "a b"};
            }),
            "tokenizer.json: model.merges[1]: \"a\" \"b\": this pair appears twice");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"] = {"a c"}; }),
            "tokenizer.json: model.merges[0]: \"a\" \"c\": a part or the result is no token");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][0]["id"] = 5; }),
            "tokenizer.json: added tokens: id 5 belongs to both \"\u0105\" and \"<|end|>\"");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][0]["content"] = "a"; }),
            "tokenizer.json: added tokens: token \"a\" has id 257, but also id 97");
}

TEST(Tokenizer, TheConfigurationAddsTokensAndNamesThem) {
  const std::string json = dump_json(test::tiny_tokenizer_json({}));
  const auto good = Tokenizer::parse(
      json, R"({"eos_token": "<more>", "added_tokens_decoder": {"900": {"content": "<more>"}}})");
  ASSERT_TRUE(good.ok()) << good.error().message;
  EXPECT_EQ(good.value().eos_token_id(), 900);
  EXPECT_EQ(good.value().encode("<more>", AddedTokens::parse), (Ids{900}));
  EXPECT_EQ(good.value().vocab_size(), 901);
  const auto bad = Tokenizer::parse(json, R"({"eos_token": "<nowhere>"})");
  EXPECT_EQ(bad.error().message,
            "tokenizer.json: eos_token: found \"<nowhere>\", expected a token of the vocabulary");
}

TEST(Tokenizer, AMissingFileIsNamed) {
  const auto result = Tokenizer::load("no/such/tokenizer.json");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::not_found);
  EXPECT_NE(result.error().message.find("no/such/tokenizer.json"), std::string::npos);
}

}  // namespace
}  // namespace nibble::tokenizer
