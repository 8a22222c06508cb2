// Tests for tokenizer_json and tokenizer_spec: what is read, and that everything unknown is refused
// by name.
#include "tokenizer/tokenizer_spec.h"

#include "tests/support/tiny_tokenizer.h"

#include <gtest/gtest.h>

#include <functional>

namespace nibble::tokenizer {
namespace {

using test::tiny_tokenizer_json;

// Error of the tiny file after `change`; empty when it is accepted.
std::string error_after(const std::function<void(Json&)>& change) {
  Json json = tiny_tokenizer_json({{"a", "b"}});
  change(json);
  const auto spec = parse_tokenizer_spec(dump_json(json), "t.json");
  return spec.ok() ? "" : spec.error().message;
}

TEST(TokenizerSpec, ReadsTheWholeFile) {
  const std::string text = dump_json(tiny_tokenizer_json({{"a", "b"}, {" ", "ab"}}));
  const auto result = parse_tokenizer_spec(text, "t.json");
  ASSERT_TRUE(result.ok()) << result.error().message;
  const TokenizerSpec& spec = result.value();
  EXPECT_TRUE(spec.normalizes_nfc);
  EXPECT_FALSE(spec.ignores_merges);
  EXPECT_EQ(spec.split_pattern, kPatternMarksJoinLetters);
  EXPECT_EQ(spec.vocab.size(), 258u);
  ASSERT_EQ(spec.merges.size(), 2u);
  EXPECT_EQ(spec.merges[1].left, "\u0120");
  EXPECT_EQ(spec.merges[1].right, "ab");
  ASSERT_EQ(spec.added_tokens.size(), 2u);
  EXPECT_EQ(spec.added_tokens[0].content, "<|end|>");
  EXPECT_TRUE(spec.added_tokens[0].is_special);
  EXPECT_FALSE(spec.added_tokens[1].is_special);
}

TEST(TokenizerSpec, AcceptsBothFormsOfMergesAndAbsentOptions) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["merges"] = {"a b"}; }), "");
  EXPECT_EQ(error_after([](Json& j) { j["normalizer"] = nullptr; }), "");
  EXPECT_EQ(error_after([](Json& j) { j["post_processor"] = nullptr; }), "");
  EXPECT_EQ(error_after([](Json& j) { j["model"].erase("ignore_merges"); }), "");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["continuing_subword_prefix"] = nullptr; }), "");
}

TEST(TokenizerSpec, RefusesWhatItDoesNotKnowByName) {
  EXPECT_EQ(error_after([](Json& j) { j["novelty"] = 1; }),
            "t.json: $: unknown field \"novelty\" (1)");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["novelty"] = 1; }),
            "t.json: $.model: unknown field \"novelty\" (1)");
  EXPECT_EQ(error_after([](Json& j) { j["normalizer"]["type"] = "NFKC"; }),
            "t.json: $.normalizer.type: found \"NFKC\", expected \"NFC\"");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["byte_fallback"] = true; }),
            "t.json: $.model.byte_fallback: found true, expected false");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["dropout"] = 0.1; }),
            "t.json: $.model.dropout: found 0.1, expected null");
  EXPECT_EQ(error_after([](Json& j) { j["model"]["type"] = "Unigram"; }),
            "t.json: $.model.type: found \"Unigram\", expected \"BPE\"");
  EXPECT_EQ(error_after([](Json& j) { j["added_tokens"][1]["lstrip"] = true; }),
            "t.json: $.added_tokens[1].lstrip: found true, expected false");
  EXPECT_EQ(error_after([](Json& j) {
              j["truncation"] = {{"max_length", 5}};
            }),
            "t.json: $.truncation: found {\"max_length\":5}, expected null");
  EXPECT_EQ(error_after([](Json& j) { j["decoder"]["type"] = "WordPiece"; }),
            "t.json: $.decoder.type: found \"WordPiece\", expected \"ByteLevel\"");
}

TEST(TokenizerSpec, RefusesOtherPreTokenizers) {
  const auto steps = [](Json& j) -> Json& { return j["pre_tokenizer"]["pretokenizers"]; };
  EXPECT_NE(error_after([&](Json& j) { steps(j)[1]["use_regex"] = true; }), "");
  EXPECT_NE(error_after([&](Json& j) { steps(j)[1].erase("use_regex"); }), "");
  EXPECT_NE(error_after([&](Json& j) { steps(j)[0]["behavior"] = "Removed"; }), "");
  EXPECT_NE(error_after([&](Json& j) { steps(j)[0]["invert"] = true; }), "");
  EXPECT_NE(error_after([&](Json& j) { steps(j)[0]["pattern"] = {{"String", " "}}; }), "");
  EXPECT_NE(error_after([&](Json& j) { steps(j).erase(1); }), "");
  EXPECT_NE(error_after([](Json& j) { j["pre_tokenizer"] = nullptr; }), "");
}

TEST(TokenizerSpec, RefusesMisshapenVocabularyAndMerges) {
  EXPECT_EQ(error_after([](Json& j) { j["model"]["vocab"]["a"] = "1"; }),
            "t.json: model.vocab: \"a\": found \"1\", expected an integer");
  EXPECT_NE(error_after([](Json& j) { j["model"]["vocab"]["a"] = Json::object(); }), "");
  EXPECT_NE(error_after([](Json& j) { j["model"].erase("vocab"); }), "");
  EXPECT_NE(error_after([](Json& j) { j["model"]["vocab"] = Json::array(); }), "");
  EXPECT_NE(error_after([](Json& j) { j["model"]["merges"] = {"a b c"}; }), "");
  EXPECT_NE(error_after([](Json& j) { j["model"]["merges"] = {"ab"}; }), "");
  EXPECT_NE(error_after([](Json& j) { j["model"]["merges"] = {1}; }), "");
  const Json one_part = Json::array({Json::array({"a"})});
  EXPECT_NE(error_after([&](Json& j) { j["model"]["merges"] = one_part; }), "");
  const Json nested = Json::array({Json::array({"a", Json::array({"b"})})});
  EXPECT_NE(error_after([&](Json& j) { j["model"]["merges"] = nested; }), "");
}

TEST(TokenizerSpec, RefusesBrokenJson) {
  EXPECT_FALSE(parse_tokenizer_spec("", "t.json").ok());
  EXPECT_FALSE(parse_tokenizer_spec("[]", "t.json").ok());
  EXPECT_FALSE(parse_tokenizer_spec("{\"model\":{\"vocab\":{\"a\":1}", "t.json").ok());
  EXPECT_FALSE(parse_tokenizer_spec(std::string(100000, '['), "t.json").ok());
  const auto twice = parse_tokenizer_spec("{\"version\":\"1.0\",\"version\":\"1.0\"}", "t.json");
  EXPECT_EQ(twice.error().message, "t.json: key \"version\" appears twice");
}

TEST(TokenizerConfig, ReadsTokensInBothFormsAndTheTemplate) {
  const auto config = parse_tokenizer_config(
      R"({"eos_token": "<e>", "pad_token": {"content": "<p>", "lstrip": false}, "bos_token": null,
          "chat_template": "{{ x }}", "model_max_length": 1e30,
          "added_tokens_decoder": {"10": {"content": "<p>", "special": true}, "9": {"content": "<e>"}}})",
      "c.json");
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config.value().eos_token, "<e>");
  EXPECT_EQ(config.value().pad_token, "<p>");
  EXPECT_FALSE(config.value().bos_token);
  EXPECT_EQ(config.value().chat_template, "{{ x }}");
  ASSERT_EQ(config.value().added_tokens.size(), 2u);
  EXPECT_EQ(config.value().added_tokens[0].id, 9);
  EXPECT_TRUE(config.value().added_tokens[1].is_special);
}

TEST(TokenizerConfig, RefusesWhatChangesIdsOrText) {
  for (const char* text :
       {R"({"add_bos_token": true})", R"({"clean_up_tokenization_spaces": true})",
        R"({"added_tokens_decoder": {"x": {"content": "a"}}})", R"({"eos_token": 3})",
        R"({"added_tokens_decoder": {"1": {"content": "a", "rstrip": true}}})", "[]", "{"}) {
    EXPECT_FALSE(parse_tokenizer_config(text, "c.json").ok()) << text;
  }
}

}  // namespace
}  // namespace nibble::tokenizer
