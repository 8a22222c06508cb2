// Tests of the message handling around templates. The golden conversations are checked by
// golden_runner.
#include "tokenizer/chat_template.h"

#include "base/file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

namespace nibble::tokenizer {
namespace {

OrderedJson json(const std::string& text) {
  return parse_ordered_json(text, "test").value();
}

std::string render(const std::string& source, const ChatRequest& request) {
  const auto parsed = ChatTemplate::parse(source, {{"eos_token", "<end>"}});
  if (!parsed.ok()) return "error: " + parsed.error().message;
  const auto rendered = parsed.value().render(request);
  return rendered.ok() ? rendered.value() : "error: " + rendered.error().message;
}

ChatRequest request_with(const std::string& messages) {
  ChatRequest request;
  request.messages = json(messages);
  return request;
}

constexpr const char* kPlain =
    "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}";

TEST(ChatTemplate, GivesMessagesToolsAndVariables) {
  ChatRequest request = request_with(R"([{"role": "user", "content": " hi "}])");
  request.tools = json(R"([{"b": 1, "a": 2}])");
  request.variables = json(R"({"flag": false})");
  request.add_generation_prompt = true;
  EXPECT_EQ(
      render(std::string(kPlain) + " {{ tools[0] | tojson }} {{ flag }} {{ documents }}", request),
      "user:hi<end>assistant: {\"b\": 1, \"a\": 2} False None");
}

TEST(ChatTemplate, VariablesOverrideSpecialTokens) {
  ChatRequest request = request_with(R"([{"role": "user", "content": "x"}])");
  request.variables = json(R"({"eos_token": "#"})");
  EXPECT_EQ(render(kPlain, request), "user:x#");
}

TEST(ChatTemplate, DropsNullFieldsAndFillsReasoning) {
  const ChatRequest request = request_with(
      R"([{"role": "assistant", "content": null, "reasoning": "r", "tool_calls": null}])");
  EXPECT_EQ(
      render("{{ messages[0] | tojson }}", request),
      R"({"thinking": "r", "role": "assistant", "reasoning": "r", "reasoning_content": "r"})");
}

TEST(ChatTemplate, TheFirstReasoningFieldWins) {
  const ChatRequest request = request_with(
      R"([{"role": "assistant", "thinking": "t", "reasoning": "r", "reasoning_content": null}])");
  EXPECT_EQ(render("{{ messages[0].reasoning_content }}", request), "t");
}

TEST(ChatTemplate, ContinuesTheFinalMessage) {
  ChatRequest request = request_with(
      R"([{"role": "user", "content": "a"}, {"role": "assistant", "content": "Once "}])");
  request.continue_field = "content";
  EXPECT_EQ(render(kPlain, request), "user:a<end>assistant:Once");
  EXPECT_EQ(render("{% for m in messages %}[{{ m.content }}]{% endfor %}", request), "[a][Once ");
  request.add_generation_prompt = true;
  EXPECT_NE(render(kPlain, request).find("not compatible"), std::string::npos);
}

TEST(ChatTemplate, ContinuingNeedsTheField) {
  ChatRequest request = request_with(R"([{"role": "assistant", "content": "x"}])");
  request.continue_field = "reasoning_content";
  EXPECT_NE(render(kPlain, request).find("no \"reasoning_content\""), std::string::npos);
  request.messages = json(R"([{"role": "assistant", "content": "x", "reasoning": "y"}])");
  EXPECT_NE(render(kPlain, request).find("does not read"), std::string::npos);
}

TEST(ChatTemplate, TheTemplatesOwnWordsAreTheError) {
  const ChatRequest request = request_with(R"([{"role": "user", "content": "x"}])");
  EXPECT_EQ(render("{{ raise_exception('No thanks.') }}", request), "error: No thanks.");
  EXPECT_EQ(render("\n {{ nothing.x }}", request),
            "error: chat template: UndefinedError: 'nothing' is undefined (line 2, column 12)");
}

TEST(ChatTemplate, RefusesBadRequests) {
  ChatRequest request;
  EXPECT_NE(render(kPlain, request).find("empty conversation"), std::string::npos);
  request.messages = json(R"([5])");
  EXPECT_NE(render(kPlain, request).find("messages[0]"), std::string::npos);
  request = request_with(R"([{"role": "user", "content": "x"}])");
  request.tools = json(R"([5])");
  EXPECT_NE(render(kPlain, request).find("tools"), std::string::npos);
  request.tools = OrderedJson();
  request.variables = json(R"({"messages": []})");
  EXPECT_NE(render(kPlain, request).find("cannot be set"), std::string::npos);
}

class ChatTemplateFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("nibble_chat_template_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }
  std::string render_first() {
    const auto loaded = ChatTemplate::load(folder_.string());
    if (!loaded.ok()) return "error: " + loaded.error().message;
    return loaded.value().render(request_with(R"([{"role": "user", "content": "x"}])")).value();
  }

  std::filesystem::path folder_;
};

TEST_F(ChatTemplateFolder, LoadsTheFileBeforeTheConfig) {
  write("tokenizer_config.json",
        R"({"chat_template": "config {{ eos_token }}", "eos_token": {"content": "E"}})");
  EXPECT_EQ(render_first(), "config E");
  write("chat_template.jinja", "file {{ eos_token }}");
  EXPECT_EQ(render_first(), "file E");
}

TEST_F(ChatTemplateFolder, TakesTheDefaultOfAList) {
  write("tokenizer_config.json",
        R"({"chat_template": [{"name": "tool_use", "template": "t"},
                              {"name": "default", "template": "d"}]})");
  EXPECT_EQ(render_first(), "d");
}

TEST_F(ChatTemplateFolder, SaysWhatIsMissing) {
  EXPECT_NE(render_first().find("no chat_template"), std::string::npos);
  write("chat_template.jinja", "{{ x | nosuch }}");
  const std::string error = render_first();
  EXPECT_NE(error.find(folder_.string()), std::string::npos);
  EXPECT_NE(error.find("line 1, column 8"), std::string::npos);
}

TEST(MessagesForTemplate, ParsesArgumentsAndRenamesRoles) {
  const auto messages = messages_for_template(json(
      R"([{"role": "developer", "content": "d"},
          {"role": "assistant", "tool_calls": [
            {"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
            {"name": "g", "arguments": " "}]}])"));
  ASSERT_TRUE(messages.ok());
  EXPECT_EQ(messages.value()[0]["role"], "system");
  const OrderedJson& calls = messages.value()[1]["tool_calls"];
  EXPECT_EQ(dump_json(calls[0]["function"]["arguments"]), R"({"b":1,"a":2})");
  EXPECT_EQ(dump_json(calls[1]["arguments"]), "{}");
}

TEST(MessagesForTemplate, NamesBadArguments) {
  const auto messages = messages_for_template(
      json(R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "[1]"}}]}])"));
  ASSERT_FALSE(messages.ok());
  EXPECT_NE(messages.error().message.find("messages[0].tool_calls[0].arguments"),
            std::string::npos);
}

}  // namespace
}  // namespace nibble::tokenizer
