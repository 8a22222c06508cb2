// Tests for the JSON adapter: hostile documents are errors, typed members name what they found.
#include "base/json.h"

#include "base/file.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>

namespace nibble {
namespace {

std::string nested(int levels) {
  return std::string(static_cast<size_t>(levels), '[') +
         std::string(static_cast<size_t>(levels), ']');
}

TEST(Json, ParsesAndDumpsSortedKeys) {
  const Result<Json> json = parse_json(R"({"b": 1, "a": [true, null, "x"]})", "test");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_EQ(dump_json(json.value()), R"({"a":[true,null,"x"],"b":1})");
}

TEST(Json, OrderedFormKeepsKeysAsWritten) {
  const Result<OrderedJson> json = parse_ordered_json(R"({"b": 1, "a": {"z": 2, "c": 3}})", "test");
  ASSERT_TRUE(json.ok()) << json.error().message;
  EXPECT_EQ(dump_json(json.value()), R"({"b":1,"a":{"z":2,"c":3}})");
}

TEST(Json, BadDocumentsAreErrorsThatNameTheSource) {
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "nul", "\"\\ud800\"", "1 2", "\xff"}) {
    const Result<Json> json = parse_json(text, "config.json");
    ASSERT_FALSE(json.ok()) << text;
    EXPECT_EQ(json.error().code, ErrorCode::corrupt);
    EXPECT_EQ(json.error().message.rfind("config.json: ", 0), 0u) << json.error().message;
  }
}

TEST(Json, RefusesDuplicateKeysAtEveryDepth) {
  EXPECT_FALSE(parse_json(R"({"a": 1, "a": 2})", "test").ok());
  EXPECT_FALSE(parse_json(R"([{"b": {"a": 1, "a": 2}}])", "test").ok());
  EXPECT_FALSE(parse_ordered_json(R"({"a": 1, "a": 1})", "test").ok());
  EXPECT_TRUE(parse_json(R"({"a": {"a": 1}, "b": {"a": 2}})", "test").ok());
  EXPECT_NE(parse_json(R"({"key": 1, "key": 2})", "test").error().message.find("\"key\""),
            std::string::npos);
}

TEST(Json, BoundsTheDepth) {
  EXPECT_TRUE(parse_json(nested(kMaxJsonDepth), "test").ok());
  EXPECT_FALSE(parse_json(nested(kMaxJsonDepth + 2), "test").ok());
  EXPECT_FALSE(parse_json(nested(200000), "test").ok());
}

TEST(Json, BoundsTheKeysOfAnOrderedObject) {
  std::string text = "{";
  for (int key = 0; key < 5000; ++key) {
    text += (key == 0 ? "\"" : ",\"") + std::to_string(key) + "\":0";
  }
  text += "}";
  EXPECT_TRUE(parse_json(text, "test").ok());
  EXPECT_FALSE(parse_ordered_json(text, "test").ok());
}

TEST(Json, DumpReplacesInvalidUtf8) {
  EXPECT_EQ(dump_json(Json("a\xff")), "\"a\xef\xbf\xbd\"");
}

TEST(Json, TypedMembersAcceptTheirTypeOnly) {
  const Json object =
      parse_json(
          R"({"i": 7, "f": 1.5, "b": true, "s": "text", "n": null, "big": 18446744073709551615})",
          "test")
          .value();
  EXPECT_EQ(json_int(object, "i", "w").value(), 7);
  EXPECT_EQ(json_int_or(object, "absent", 9, "w").value(), 9);
  EXPECT_EQ(json_int_or(object, "n", 9, "w").value(), 9);
  EXPECT_FALSE(json_int(object, "absent", "w").ok());
  EXPECT_FALSE(json_int(object, "f", "w").ok());
  EXPECT_FALSE(json_int(object, "big", "w").ok());
  EXPECT_FALSE(json_int_or(object, "s", 9, "w").ok());
  EXPECT_EQ(json_string(object, "s", "w").value(), "text");
  EXPECT_FALSE(json_string(object, "absent", "w").ok());
  EXPECT_EQ(json_string_or(object, "absent", "else", "w").value(), "else");
  EXPECT_FALSE(json_string_or(object, "i", "else", "w").ok());
}

TEST(Json, TypeErrorsNamePathFoundAndWanted) {
  const Json object = parse_json(R"({"hidden_size": "wide"})", "test").value();
  const std::string message = json_int(object, "hidden_size", "config.json").error().message;
  for (const char* part : {"config.json", "hidden_size", "\"wide\"", "integer"}) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  }
}

TEST(Json, RepeatedKeysAreRefusedOrTheLastOneWins) {
  const std::string text = R"({"a": 1, "b": 2, "a": 3})";
  EXPECT_FALSE(parse_ordered_json(text, "w").ok());
  const auto json = parse_ordered_json(text, "w", DuplicateKeys::last_wins);
  ASSERT_TRUE(json.ok());
  EXPECT_EQ(dump_json(json.value()), R"({"a":3,"b":2})");
}

TEST(Json, ReadsFiles) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("a.json"), "{\"a\": 1}").ok());
  EXPECT_EQ(json_int(read_json_file(folder.file("a.json")).value(), "a", "w").value(), 1);
  EXPECT_EQ(read_json_file(folder.file("b.json")).error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace nibble
