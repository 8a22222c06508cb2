// Tests for chat_messages: what the normaliser makes of the messages clients really send.
#include "server/chat_messages.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace nibble::server {
namespace {

struct GoodCase {
  const char* name;
  const char* in;
  const char* out;
};

class ChatMessages : public testing::TestWithParam<GoodCase> {};

TEST_P(ChatMessages, AreNormalised) {
  FieldErrors errors;
  const OrderedJson in = parse_ordered_json(GetParam().in, "test").value();
  const OrderedJson out = normalize_messages(in, errors);
  ASSERT_TRUE(errors.empty()) << errors.to_api_error().message;
  EXPECT_EQ(dump_json(out), dump_json(parse_ordered_json(GetParam().out, "test").value()));
}

constexpr GoodCase kGoodCases[] = {
    {"plain", R"([{"role":"system","content":"s"},{"role":"user","content":"u"}])",
     R"([{"role":"system","content":"s"},{"role":"user","content":"u"}])"},
    {"developer_is_system", R"([{"role":"developer","content":"s"},{"role":"user","content":"u"}])",
     R"([{"role":"system","content":"s"},{"role":"user","content":"u"}])"},
    {"leading_system_run_is_merged",
     R"([{"role":"system","content":"a"},{"role":"developer","content":"b"},
         {"role":"user","content":"u"}])",
     R"([{"role":"system","content":"a\n\nb"},{"role":"user","content":"u"}])"},
    {"later_system_joins_the_user_turn_before",
     R"([{"role":"user","content":"u"},{"role":"system","content":"s"}])",
     R"([{"role":"user","content":"u\n\n<system-reminder>\ns\n</system-reminder>"}])"},
    {"later_system_joins_the_user_turn_after",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"},
         {"role":"system","content":"s"},{"role":"user","content":"v"}])",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"},
         {"role":"user","content":"<system-reminder>\ns\n</system-reminder>\n\nv"}])"},
    {"later_system_alone_becomes_a_user_turn",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"},
         {"role":"system","content":"s"}])",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"},
         {"role":"user","content":"<system-reminder>\ns\n</system-reminder>"}])"},
    {"billing_lines_are_dropped",
     R"([{"role":"system","content":"x-anthropic-billing-header: a\nkeep"},
         {"role":"user","content":"u"}])",
     R"([{"role":"system","content":"keep"},{"role":"user","content":"u"}])"},
    {"text_parts_are_joined",
     R"([{"role":"user","content":[{"type":"text","text":"a"},{"text":"b"},
                                   {"type":"input_text","text":"c"}]}])",
     R"([{"role":"user","content":"abc"}])"},
    {"no_parts_is_empty_text", R"([{"role":"user","content":[]}])",
     R"([{"role":"user","content":""}])"},
    {"tool_arguments_become_objects_in_order",
     R"([{"role":"user","content":"u"},
         {"role":"assistant","content":null,"tool_calls":[
           {"id":"1","type":"function","function":{"name":"f","arguments":"{\"z\":1,\"a\":2}"}},
           {"id":"2","type":"function","function":{"name":"g","arguments":""}},
           {"id":"3","type":"function","function":{"name":"h","arguments":"not json"}}]}])",
     R"([{"role":"user","content":"u"},
         {"role":"assistant","content":"","tool_calls":[
           {"id":"1","type":"function","function":{"name":"f","arguments":{"z":1,"a":2}}},
           {"id":"2","type":"function","function":{"name":"g","arguments":{}}},
           {"id":"3","type":"function","function":{"name":"h","arguments":"not json"}}]}])"},
    {"empty_tool_calls_are_dropped",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a","tool_calls":[]}])",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a"}])"},
    {"reasoning_goes_under_both_names",
     R"([{"role":"user","content":"u"},{"role":"assistant","content":"a","reasoning":"r"}])",
     R"([{"role":"user","content":"u"},
         {"role":"assistant","content":"a","reasoning":"r","reasoning_content":"r"}])"},
    {"thinking_parts_are_reasoning",
     R"([{"role":"user","content":"u"},
         {"role":"assistant","content":[{"type":"thinking","thinking":"r"},
                                        {"type":"text","text":"a"}]}])",
     R"([{"role":"user","content":"u"},
         {"role":"assistant","content":"a","reasoning":"r","reasoning_content":"r"}])"},
    {"tool_results_are_text",
     R"([{"role":"user","content":"u"},
         {"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"42"}]}])",
     R"([{"role":"user","content":"u"},{"role":"tool","tool_call_id":"1","content":"42"}])"},
    {"function_role_is_tool",
     R"([{"role":"user","content":"u"},{"role":"function","content":"1"}])",
     R"([{"role":"user","content":"u"},{"role":"tool","content":"1"}])"},
    {"a_missing_user_turn_is_added",
     R"([{"role":"system","content":"s"},{"role":"assistant","content":"a"}])",
     R"([{"role":"system","content":"s"},{"role":"user","content":""},
         {"role":"assistant","content":"a"}])"},
};

INSTANTIATE_TEST_SUITE_P(Good, ChatMessages, testing::ValuesIn(kGoodCases),
                         [](const auto& test) { return std::string(test.param.name); });

struct BadCase {
  const char* in;
  const char* param;
};

class ChatMessagesBad : public testing::TestWithParam<BadCase> {};

TEST_P(ChatMessagesBad, PointsAtTheMessage) {
  FieldErrors errors;
  normalize_messages(parse_ordered_json(GetParam().in, "test").value(), errors);
  ASSERT_FALSE(errors.empty());
  EXPECT_EQ(errors.to_api_error().param, GetParam().param);
}

constexpr BadCase kBadCases[] = {
    {R"(["hi"])", "messages.0"},
    {R"([{"content":"u"}])", "messages.0.role"},
    {R"([{"role":"wizard","content":"u"}])", "messages.0.role"},
    {R"([{"role":"user","content":"u"},{"role":"user"}])", "messages.1.content"},
    {R"([{"role":"user","content":5}])", "messages.0.content"},
    {R"([{"role":"user","content":["u"]}])", "messages.0.content.0"},
    {R"([{"role":"user","content":[{"type":"text"}]}])", "messages.0.content.0.text"},
    {R"([{"role":"user","content":[{"type":"dance"}]}])", "messages.0.content.0"},
    {R"([{"role":"user","content":[{"type":"text","text":"a"},
        {"type":"image_url","image_url":{"url":"data:"}}]}])",
     "messages.0.content.1"},
    {R"([{"role":"user","content":"u"},{"role":"assistant","tool_calls":5}])",
     "messages.1.tool_calls"},
    {R"([{"role":"user","content":"u"},{"role":"assistant","tool_calls":[{"id":"1"}]}])",
     "messages.1.tool_calls.0.function.name"},
};

INSTANTIATE_TEST_SUITE_P(Bad, ChatMessagesBad, testing::ValuesIn(kBadCases));

TEST(ChatMessagesImage, ErrorSaysWhatIsSupported) {
  FieldErrors errors;
  const char* in = R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}])";
  normalize_messages(parse_ordered_json(in, "test").value(), errors);
  EXPECT_NE(errors.to_api_error().message.find("image_url are not supported"), std::string::npos);
}

}  // namespace
}  // namespace nibble::server
