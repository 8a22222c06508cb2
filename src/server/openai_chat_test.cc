// Tests for openai_chat: every field's good values, bad values and where the error points.
#include "server/openai_chat.h"

#include <gtest/gtest.h>

namespace nibble::server {
namespace {

constexpr int32_t kVocab = 1000;

std::variant<ChatRequest, ApiError> parse(const std::string& extra) {
  const std::string text =
      R"({"messages":[{"role":"user","content":"hi"}])" + (extra.empty() ? "" : "," + extra) + "}";
  const Result<OrderedJson> body = parse_ordered_json(text, "test", DuplicateKeys::last_wins);
  EXPECT_TRUE(body.ok()) << text;
  GenerationDefaults defaults;
  defaults.temperature = 0.6f;
  defaults.top_p = 0.95f;
  defaults.top_k = 20;
  ChatLimits limits;
  limits.vocab_size = kVocab;
  return parse_chat_request(body.value(), defaults, limits);
}

ChatRequest good(const std::string& extra) {
  auto parsed = parse(extra);
  if (const auto* error = std::get_if<ApiError>(&parsed)) {
    ADD_FAILURE() << extra << ": " << error->message;
    return {};
  }
  return std::get<ChatRequest>(std::move(parsed));
}

TEST(OpenAiChat, DefaultsComeFromTheModel) {
  const ChatRequest r = good("");
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.6f);
  EXPECT_FLOAT_EQ(r.sampling.top_p, 0.95f);
  EXPECT_EQ(r.sampling.top_k, 20);
  EXPECT_EQ(r.sampling.top_logprobs, -1);
  EXPECT_EQ(r.n, 1);
  EXPECT_EQ(r.max_tokens, 0);
  EXPECT_FALSE(r.stream);
  EXPECT_FALSE(r.seed.has_value());
  EXPECT_TRUE(r.tools.is_null());
  EXPECT_TRUE(r.skip_special_tokens);
  EXPECT_TRUE(r.include_reasoning);
}

TEST(OpenAiChat, ValuesArriveInTheRequest) {
  const ChatRequest r = good(
      R"("temperature":1.5,"top_p":0.5,"top_k":7,"min_p":0.1,"repetition_penalty":1.1,
         "presence_penalty":-2,"frequency_penalty":2,"seed":42,"n":3,"max_tokens":9,
         "max_completion_tokens":8,"min_tokens":2,"stop":["a","b"],"stop_token_ids":[1,2],
         "ignore_eos":true,"include_stop_str_in_output":true,"skip_special_tokens":false,
         "logprobs":true,"top_logprobs":5,"stream":true,
         "stream_options":{"include_usage":true,"continuous_usage_stats":true},
         "logit_bias":{"5":-200,"6":1.5},"include_reasoning":false,"model":"m")");
  EXPECT_FLOAT_EQ(r.sampling.temperature, 1.5f);
  EXPECT_FLOAT_EQ(r.sampling.top_p, 0.5f);
  EXPECT_EQ(r.sampling.top_k, 7);
  EXPECT_FLOAT_EQ(r.sampling.min_p, 0.1f);
  EXPECT_FLOAT_EQ(r.sampling.repetition_penalty, 1.1f);
  EXPECT_FLOAT_EQ(r.sampling.presence_penalty, -2.0f);
  EXPECT_FLOAT_EQ(r.sampling.frequency_penalty, 2.0f);
  EXPECT_EQ(r.seed, 42u);
  EXPECT_EQ(r.n, 3);
  EXPECT_EQ(r.max_tokens, 8) << "max_completion_tokens wins";
  EXPECT_EQ(r.min_tokens, 2);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.stop_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_TRUE(r.ignore_eos && r.include_stop_in_output && r.wants_logprobs && r.stream);
  EXPECT_TRUE(r.include_usage && r.continuous_usage);
  EXPECT_FALSE(r.skip_special_tokens || r.include_reasoning);
  EXPECT_EQ(r.sampling.top_logprobs, 5);
  ASSERT_EQ(r.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(r.sampling.logit_bias[0], (std::pair<int32_t, float>{5, -100.0f})) << "clamped";
  EXPECT_EQ(r.sampling.logit_bias[1], (std::pair<int32_t, float>{6, 1.5f}));
  EXPECT_EQ(r.model, "m");
}

TEST(OpenAiChat, EdgeValues) {
  EXPECT_EQ(good(R"("temperature":0)").sampling.temperature, 0.0f);
  EXPECT_EQ(good(R"("temperature":0.000001)").sampling.temperature, 0.0f) << "greedy";
  EXPECT_FLOAT_EQ(good(R"("temperature":0.001)").sampling.temperature, 0.01f);
  EXPECT_EQ(good(R"("top_k":-1)").sampling.top_k, 0);
  EXPECT_FALSE(good(R"("seed":-1)").seed.has_value()) << "-1 is random";
  EXPECT_EQ(good(R"("max_tokens":16.0)").max_tokens, 16) << "an integer may be written so";
  EXPECT_EQ(good(R"("stop":"x")").stop, std::vector<std::string>{"x"});
  EXPECT_EQ(good(R"("logprobs":true)").sampling.top_logprobs, 0);
  EXPECT_TRUE(good(R"("tools":[])").tools.is_null()) << "no tools";
  EXPECT_EQ(good(R"("temperature":0.1,"temperature":0.2)").sampling.temperature, 0.2f);
}

TEST(OpenAiChat, NullAndUnknownFieldsMeanNothing) {
  const ChatRequest r = good(
      R"("temperature":null,"stop":null,"tools":null,"tool_choice":null,"response_format":null,
         "stream_options":null,"top_logprobs":null,"audio":null,"some_new_field":{"a":1})");
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.6f);
}

TEST(OpenAiChat, HarmlessFieldsAreAccepted) {
  good(R"("user":"u","metadata":{},"store":false,"service_tier":"auto","parallel_tool_calls":true,
          "response_format":{"type":"text"},"modalities":["text"],"best_of":1,"echo":false,
          "prompt_logprobs":null,"use_beam_search":false,"bad_words":[],"functions":[],
          "thinking_token_budget":-1,"tool_choice":"none","cache_salt":"x","priority":3)");
}

struct BadCase {
  const char* fields;
  const char* param;
  const char* message_part;
};

class OpenAiChatBad : public testing::TestWithParam<BadCase> {};

TEST_P(OpenAiChatBad, IsRefusedWithItsField) {
  const auto parsed = parse(GetParam().fields);
  const auto* error = std::get_if<ApiError>(&parsed);
  ASSERT_NE(error, nullptr) << GetParam().fields;
  EXPECT_EQ(error->status, 400);
  EXPECT_EQ(error->param, GetParam().param);
  EXPECT_NE(error->message.find(GetParam().message_part), std::string::npos) << error->message;
}

constexpr BadCase kBadCases[] = {
    {R"("temperature":2.5)", "temperature", "at most 2"},
    {R"("temperature":-0.1)", "temperature", "at least 0"},
    {R"("temperature":"hot")", "temperature", "a number"},
    {R"("temperature":true)", "temperature", "a number"},
    {R"("top_p":0)", "top_p", "more than 0"},
    {R"("top_p":1.01)", "top_p", "at most 1"},
    {R"("top_k":-2)", "top_k", "at least -1"},
    {R"("top_k":1.5)", "top_k", "an integer"},
    {R"("min_p":1.5)", "min_p", "at most 1"},
    {R"("repetition_penalty":0)", "repetition_penalty", "more than 0"},
    {R"("presence_penalty":2.1)", "presence_penalty", "at most 2"},
    {R"("frequency_penalty":-2.1)", "frequency_penalty", "at least -2"},
    {R"("max_tokens":0)", "max_tokens", "at least 1"},
    {R"("max_tokens":"9")", "max_tokens", "an integer"},
    {R"("max_tokens":99999999999999999999999)", "max_tokens", "an integer"},
    {R"("max_completion_tokens":-1)", "max_completion_tokens", "at least 1"},
    {R"("min_tokens":5,"max_tokens":4)", "min_tokens", "max_tokens"},
    {R"("seed":1.5)", "seed", "an integer"},
    {R"("seed":18446744073709551615)", "seed", "an integer"},
    {R"("n":0)", "n", "at least 1"},
    {R"("n":129)", "n", "at most 128"},
    {R"("best_of":3)", "best_of", "value of n"},
    {R"("stop":5)", "stop", "a string or an array"},
    {R"("stop":[1])", "stop.0", "a string"},
    {R"("stop":"")", "stop", "0 bytes"},
    {R"("stop_token_ids":[1000])", "stop_token_ids", "vocabulary"},
    {R"("stop_token_ids":[-1])", "stop_token_ids.0", "token id"},
    {R"("logit_bias":{"x":1})", "logit_bias", "token id"},
    {R"("logit_bias":{"1000":1})", "logit_bias", "vocabulary"},
    {R"("logit_bias":{"1":"a"})", "logit_bias", "number"},
    {R"("logit_bias":[])", "logit_bias", "an object"},
    {R"("logprobs":5)", "logprobs", "true or false"},
    {R"("top_logprobs":2)", "top_logprobs", "logprobs"},
    {R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "0 to 20"},
    {R"("logprobs":true,"top_logprobs":-1)", "top_logprobs", "0 to 20"},
    {R"("stream":"yes")", "stream", "true or false"},
    {R"("stream_options":{})", "stream_options", "stream"},
    {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage",
     "true or false"},
    {R"("tools":[5])", "tools.0", "an object"},
    {R"("tools":[{"type":"function","function":{"name":"a b"}}])", "tools.0.function.name", "A-Z"},
    {R"("tools":[{"function":{"name":"f"}},{"function":{"name":"f"}}])", "tools.1.function.name",
     "twice"},
    {R"("tool_choice":"auto")", "tool_choice", "together with tools"},
    {R"("tools":[{"function":{"name":"f"}}],"tool_choice":"required")", "tool_choice", "only"},
    {R"("response_format":{"type":"json_object"})", "response_format", "text"},
    {R"("structured_outputs":{"regex":"a"})", "structured_outputs", "not supported"},
    {R"("guided_json":{"type":"object"})", "guided_json", "not supported"},
    {R"("reasoning_effort":"extreme")", "reasoning_effort", "minimal"},
    {R"("thinking_token_budget":5)", "thinking_token_budget", "not supported"},
    {R"("chat_template":"{{ x }}")", "chat_template", "not supported"},
    {R"("continue_final_message":true)", "continue_final_message", "not supported"},
    {R"("modalities":["audio"])", "modalities", "text"},
    {R"("audio":{"voice":"x"})", "audio", "not supported"},
    {R"("prompt_logprobs":1)", "prompt_logprobs", "not supported"},
    {R"("use_beam_search":true)", "use_beam_search", "not supported"},
    {R"("messages":[])", "messages", "0 elements"},
    {R"("messages":null)", "messages", "missing"},
    {R"("messages":"hi")", "messages", "an array"},
    {R"("model":5)", "model", "a string"},
};

INSTANTIATE_TEST_SUITE_P(Fields, OpenAiChatBad, testing::ValuesIn(kBadCases));

TEST(OpenAiChat, ABodyThatIsNoObjectIsRefused) {
  const auto parsed = parse_chat_request(OrderedJson::array(), {}, {});
  ASSERT_TRUE(std::holds_alternative<ApiError>(parsed));
}

TEST(OpenAiChat, SeveralProblemsAreListedTogether) {
  const auto parsed = parse(R"("temperature":9,"top_p":9)");
  const std::string& message = std::get<ApiError>(parsed).message;
  EXPECT_NE(message.find("temperature"), std::string::npos);
  EXPECT_NE(message.find("top_p"), std::string::npos);
}

TEST(OpenAiChat, ToolsKeepTheirFormAndHostedToolsAreDropped) {
  const ChatRequest r = good(
      R"("tools":[{"type":"web_search"},
                  {"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}])");
  EXPECT_EQ(dump_json(r.tools),
            R"([{"type":"function","function":{"name":"f","parameters":{"z":1,"a":2}}}])");
}

TEST(OpenAiChat, TemplateInput) {
  const ChatRequest r =
      good(R"("chat_template_kwargs":{"enable_thinking":false,"messages":"x"},"documents":[{}])");
  const OrderedJson defaults = {{"enable_thinking", true}, {"other", 1}};
  const tokenizer::ChatRequest input = template_input(r, defaults);
  EXPECT_EQ(input.variables["enable_thinking"], false) << "the request wins over the default";
  EXPECT_EQ(input.variables["other"], 1);
  EXPECT_EQ(input.variables["documents"].size(), 1u);
  EXPECT_FALSE(input.variables.contains("messages")) << "the conversation is no such argument";
  EXPECT_TRUE(input.add_generation_prompt);
  EXPECT_EQ(input.messages.size(), 1u);
  EXPECT_TRUE(input.tools.is_null());
}

TEST(OpenAiChat, ReasoningEffortSetsThinkingUnlessGiven) {
  const OrderedJson none = OrderedJson::object();
  const auto variables = [&none](const std::string& members) {
    return template_input(good(members), none).variables;
  };
  EXPECT_EQ(variables(R"("reasoning_effort":"none")")["enable_thinking"], false);
  EXPECT_EQ(variables(R"("reasoning_effort":"low")")["enable_thinking"], true);
  const OrderedJson given =
      variables(R"("reasoning_effort":"none","chat_template_kwargs":{"enable_thinking":true})");
  EXPECT_EQ(given["enable_thinking"], true);
  EXPECT_EQ(given["reasoning_effort"], "none");
}

}  // namespace
}  // namespace nibble::server
