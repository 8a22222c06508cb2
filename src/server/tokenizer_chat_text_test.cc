// Tests for tokenizer_chat_text: the demo model's real template and tokenizer behind the server.
//
// Runs from the repository root, where models/demo lies.
#include "server/tokenizer_chat_text.h"

#include "server/openai_chat.h"
#include "tokenizer/reasoning_splitter.h"

#include <gtest/gtest.h>

namespace nibble::server {
namespace {

class TokenizerChatTextTest : public testing::Test {
 protected:
  std::string prompt(const std::string& body) {
    const OrderedJson json = parse_ordered_json(body, "test").value();
    ChatLimits limits;
    limits.vocab_size = tokenizer_.vocab_size();
    const auto parsed = parse_chat_request(json, {}, limits);
    const tokenizer::ChatRequest input =
        template_input(std::get<ChatRequest>(parsed), OrderedJson::object());
    const Result<std::string> text = text_.render(input);
    return text.ok() ? text.value() : "error: " + text.error().message;
  }

  tokenizer::Tokenizer tokenizer_ = tokenizer::Tokenizer::load("models/demo").value();
  tokenizer::ChatTemplate template_ = tokenizer::ChatTemplate::load("models/demo").value();
  TokenizerChatText text_{tokenizer_, template_};
};

TEST_F(TokenizerChatTextTest, RendersAConversation) {
  const std::string text = prompt(
      R"({"messages":[{"role":"developer","content":"Be brief."},
                      {"role":"user","content":[{"type":"text","text":"Hi"}]}],
          "chat_template_kwargs":{"enable_thinking":false}})");
  EXPECT_EQ(text,
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
            "<|im_start|>assistant\n<think>\n\n</think>\n\n");
  EXPECT_FALSE(tokenizer::ends_inside_reasoning(text));
}

TEST_F(TokenizerChatTextTest, ThinkingIsTheDefaultAndEffortTurnsItOff) {
  const std::string messages = R"({"messages":[{"role":"user","content":"Hi"}])";
  EXPECT_TRUE(tokenizer::ends_inside_reasoning(prompt(messages + "}")));
  EXPECT_FALSE(
      tokenizer::ends_inside_reasoning(prompt(messages + R"(,"reasoning_effort":"none"})")));
}

TEST_F(TokenizerChatTextTest, RendersToolsCallsAndResults) {
  const std::string text = prompt(
      R"({"messages":[{"role":"user","content":"Weather?"},
            {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function",
              "function":{"name":"get_weather","arguments":"{\"city\":\"Rome\"}"}}]},
            {"role":"tool","tool_call_id":"1","content":"sunny"}],
          "tools":[{"type":"function","function":{"name":"get_weather"}}]})");
  EXPECT_NE(text.find(R"({"type": "function", "function": {"name": "get_weather"}})"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("<tool_call>\n<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n"
                      "</function>\n</tool_call>"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("<tool_response>\nsunny\n</tool_response>"), std::string::npos) << text;
}

TEST_F(TokenizerChatTextTest, TheTemplatesOwnWordsReachTheClient) {
  const std::string text = prompt(
      R"({"messages":[{"role":"user","content":"u"},
            {"role":"assistant","content":"a","tool_calls":[
              {"function":{"name":"f","arguments":"no object"}}]}]})");
  EXPECT_TRUE(text.starts_with("error: ")) << text;
}

TEST_F(TokenizerChatTextTest, EncodesAddedTokensAndGivesTheirBytes) {
  const std::vector<int32_t> tokens = text_.encode("<|im_start|>user").value();
  ASSERT_GE(tokens.size(), 2u);
  EXPECT_EQ(tokens[0], tokenizer_.token_id("<|im_start|>"));
  std::string bytes;
  for (const int32_t token : tokens) bytes += text_.token_bytes(token);
  EXPECT_EQ(bytes, "<|im_start|>user");
  EXPECT_EQ(text_.token_bytes(-1), "");
  EXPECT_EQ(text_.token_bytes(100000000), "");
}

}  // namespace
}  // namespace nibble::server
