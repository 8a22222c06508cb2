// Tests of tokens to text and stop decisions, with real tokens of the demo tokenizer.
#include "runtime/output_text.h"

#include "tests/support/demo_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace nibble::runtime {
namespace {

struct Outcome {
  std::string text;
  std::optional<StopHit> hit;
  size_t tokens = 0;
};

Outcome run(const Request& request, const std::vector<int32_t>& tokens) {
  OutputText output(test_tokenizer(), request);
  Outcome outcome;
  for (const int32_t token : tokens) {
    ++outcome.tokens;
    outcome.hit = output.feed(token, outcome.text);
    if (outcome.hit) return outcome;
  }
  outcome.hit = output.finish(outcome.text);
  return outcome;
}

std::vector<int32_t> joined(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

int32_t end_token() {
  return tokens_of("<|im_end|>").at(0);
}

TEST(OutputText, PlainTextComesOutWhole) {
  const Outcome outcome = run(Request{}, tokens_of("The cat sat; caf\xC3\xA9 \xF0\x9F\x90\xB1."));
  EXPECT_EQ(outcome.text, "The cat sat; caf\xC3\xA9 \xF0\x9F\x90\xB1.");
  EXPECT_FALSE(outcome.hit);
}

TEST(OutputText, AStopTokenEndsWithoutItsText) {
  Request request;
  request.stop_token_ids = {end_token()};
  request.skip_special_tokens = false;
  const auto tokens = joined(tokens_of("Hello"), {end_token(), end_token()});
  Outcome outcome = run(request, tokens);
  EXPECT_EQ(outcome.text, "Hello");
  ASSERT_TRUE(outcome.hit);
  EXPECT_EQ(outcome.hit->token, end_token());
  request.include_stop_in_output = true;
  EXPECT_EQ(run(request, tokens).text, "Hello<|im_end|>");
}

TEST(OutputText, AStopTokenReleasesHeldBackText) {
  Request request;
  request.stop = {"loooong"};
  request.stop_token_ids = {end_token()};
  EXPECT_EQ(run(request, joined(tokens_of("Hello lo"), {end_token()})).text, "Hello lo");
}

TEST(OutputText, StopStringsAcrossTokens) {
  Request request;
  request.stop = {"sat on"};
  const auto tokens = tokens_of("The cat sat on the mat");
  const Outcome outcome = run(request, tokens);
  EXPECT_EQ(outcome.text, "The cat ");
  ASSERT_TRUE(outcome.hit);
  EXPECT_EQ(outcome.hit->string, "sat on");
  EXPECT_LT(outcome.tokens, tokens.size());
}

TEST(OutputText, MinTokensHoldsForTokensAndStrings) {
  Request request;
  request.stop_token_ids = {end_token()};
  request.stop = {"a"};
  request.min_tokens = 3;
  std::vector<int32_t> tokens = {tokens_of("a").at(0), end_token(), tokens_of("a").at(0)};
  EXPECT_FALSE(run(request, tokens).hit);
  EXPECT_EQ(run(request, tokens).text, "aa");
  tokens.push_back(tokens_of("a").at(0));
  EXPECT_EQ(run(request, tokens).text, "aa");
  EXPECT_EQ(run(request, tokens).hit->string, "a");
}

TEST(OutputText, ACutOffCharacterBecomesTheReplacementCharacterAtTheEnd) {
  const auto bytes = tokens_of("\xF0\x9F\xA6\x94");
  ASSERT_GT(bytes.size(), 1u) << "the character must come from several tokens";
  Request request;
  EXPECT_EQ(run(request, {bytes[0]}).text, "\xEF\xBF\xBD");
  request.stop = {"\xEF\xBF\xBD"};
  const Outcome outcome = run(request, {bytes[0]});
  EXPECT_EQ(outcome.text, "");
  ASSERT_TRUE(outcome.hit);
}

}  // namespace
}  // namespace nibble::runtime
