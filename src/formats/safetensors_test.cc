// Tests for the safetensors reader and writer: a round trip, and a table of hostile headers, each
// with the words its refusal must contain.
#include "base/file.h"
#include "formats/safetensors_reader.h"
#include "formats/safetensors_writer.h"
#include "formats/test_files.h"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

namespace nibble::formats {
namespace {

// One F32 [2] tensor "a" and 8 bytes of data are the base that hostile cases vary.
struct Case {
  const char* name;
  const char* header;
  size_t data_bytes;
  const char* message;
};

const Case kHostile[] = {
    {"not json", "{\"a\":", 0, "not valid JSON"},
    {"no brace", "[]", 0, "does not start with '{'"},
    {"leading space", " {}", 0, "does not start with '{'"},
    {"trailing text", "{} x", 0, "not valid JSON"},
    {"trailing nul", R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}x)", 0, "JSON"},
    {"tensor is a number", R"({"a":3})", 0, "found a number"},
    {"tensor is null", R"({"a":null})", 0, "found null"},
    {"tensor is a list", R"({"a":[1]})", 0, "found a list"},
    {"nested object", R"({"a":{"dtype":{}}})", 0, "found an object"},
    {"nested list", R"({"a":{"dtype":"F32","shape":[[2]]}})", 8, "found a list"},
    {"unknown field", R"({"a":{"dtype":"F32","strides":[1]}})", 8, "unknown field \"strides\""},
    {"repeated field", R"({"a":{"dtype":"F32","dtype":"U8"}})", 8, "field dtype appears twice"},
    {"dtype missing", R"({"a":{"shape":[2],"data_offsets":[0,8]}})", 8, "dtype missing"},
    {"shape missing", R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "shape missing"},
    {"offsets missing", R"({"a":{"dtype":"F32","shape":[2]}})", 8, "data_offsets missing"},
    {"dtype unknown", R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8,
     "dtype \"F33\" is unknown"},
    {"dtype a number", R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})", 8,
     "found a number"},
    {"shape a string", R"({"a":{"dtype":"F32","shape":"2","data_offsets":[0,8]}})", 8,
     "found a string"},
    {"negative extent", R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", 8,
     "extent -2"},
    {"fractional extent", R"({"a":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}})", 8,
     "extent 2.0"},
    {"huge extent", R"({"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,8]}})",
     8, "extent 18446744073709551616"},
    {"extent beyond int64",
     R"({"a":{"dtype":"U8","shape":[9223372036854775808,0],"data_offsets":[0,0]}})", 0,
     "overflows"},
    {"product wraps to 8",
     R"({"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}})", 8, "overflows"},
    {"product wraps to 0",
     R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0,
     "overflows"},
    {"too many axes", R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,8],"data_offsets":[0,8]}})", 8,
     "6 extents, at most 5"},
    {"one offset", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0]}})", 8,
     "data_offsets has 1 numbers"},
    {"three offsets", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8,
     "data_offsets has 3 numbers"},
    {"negative offset", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})", 8,
     "data offset -8"},
    {"offsets reversed", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", 8,
     "lie outside the 8 bytes"},
    {"offset out of range", R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", 8,
     "lie outside the 8 bytes"},
    {"offset near 2^64",
     R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}})",
     8, "lie outside"},
    {"bytes differ from product", R"({"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,8]}})", 8,
     "hold 8 bytes, expected 4 (BF16 [2])"},
    {"repeated name",
     R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     8, "tensor \"a\" appears twice"},
    {"overlap",
     R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
     8, "tensor \"b\" overlaps"},
    {"same bytes twice",
     R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
     8, "overlaps"},
    {"hole",
     R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}})",
     8, "hole of 4 bytes before tensor \"b\""},
    {"hole at the start", R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})", 8,
     "hole of 4 bytes"},
    {"unused tail", R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8,
     "8 bytes of data, the tensors use 4"},
    {"data without tensors", "{}", 8, "8 bytes of data, the tensors use 0"},
    {"unaligned",
     R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
     5, "tensor \"b\": byte"},
    {"metadata a string", R"({"__metadata__":"pt"})", 0, "found a string"},
    {"metadata value a number", R"({"__metadata__":{"format":1}})", 0, "found a number"},
    {"metadata twice", R"({"__metadata__":{},"__metadata__":{}})", 0, "appears twice"},
    {"metadata key twice", R"({"__metadata__":{"a":"x","a":"y"}})", 0, "appears twice"},
    {"bad utf-8", "{\"\xFF\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0,
     "not valid JSON"},
};

TEST(SafetensorsReader, RefusesHostileHeaders) {
  for (const Case& c : kHostile) {
    const std::string file = safetensors_bytes(c.header, std::string(c.data_bytes, 'x'));
    const auto result = parse_safetensors_header(as_byte_span(file), "x.safetensors");
    ASSERT_FALSE(result.ok()) << c.name;
    EXPECT_EQ(result.error().code, ErrorCode::corrupt) << c.name;
    EXPECT_NE(result.error().message.find(c.message), std::string::npos)
        << c.name << ": " << result.error().message;
    EXPECT_EQ(result.error().message.rfind("x.safetensors: ", 0), 0u) << c.name;
  }
}

TEST(SafetensorsReader, RefusesBadLengths) {
  const std::string good = safetensors_bytes("{}", "");
  for (size_t size = 0; size < good.size(); ++size) {
    const std::string cut = good.substr(0, size);
    EXPECT_FALSE(parse_safetensors_header(as_byte_span(cut), "x").ok()) << size;
  }
  for (const uint64_t length :
       {uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 7, uint64_t{10'000'000'000}}) {
    std::string file = good;
    std::memcpy(file.data(), &length, 8);
    EXPECT_FALSE(parse_safetensors_header(as_byte_span(file), "x").ok()) << length;
  }
  EXPECT_TRUE(parse_safetensors_header(as_byte_span(good), "x").ok());
}

TEST(SafetensorsReader, DeepNestingDoesNotExhaustTheStack) {
  const std::string file = safetensors_bytes("{\"a\":" + std::string(1'000'000, '['), "");
  EXPECT_FALSE(parse_safetensors_header(as_byte_span(file), "x").ok());
}

TEST(SafetensorsReader, ListsEveryFault) {
  const std::string file = safetensors_bytes(
      R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}})",
      std::string(8, 'x'));
  const auto result = parse_safetensors_header(as_byte_span(file), "x");
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("2 problems"), std::string::npos);
  EXPECT_NE(result.error().message.find("tensor \"a\""), std::string::npos);
  EXPECT_NE(result.error().message.find("tensor \"b\""), std::string::npos);
}

TEST(SafetensorsReader, AcceptsScalarsEmptyTensorsFiveAxesAndPadding) {
  const std::string header =
      R"({"e":{"dtype":"F32","shape":[0,3],"data_offsets":[4,4]},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"five":{"dtype":"U8","shape":[1,2,1,2,1],"data_offsets":[4,8]},"__metadata__":{"format":"pt"}}      )";
  const std::string file = safetensors_bytes(header, "abcdwxyz");
  const auto result = parse_safetensors_header(as_byte_span(file), "x");
  ASSERT_TRUE(result.ok()) << result.error().message;
  const auto& tensors = result.value().tensors;
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].name, "e");
  EXPECT_EQ(tensors[1].shape, (Shape{1, 2, 1, 2, 1}));
  EXPECT_EQ(tensors[2].shape.rank(), 0);
  EXPECT_EQ(tensors[2].bytes, 4u);
  EXPECT_EQ(file.substr(tensors[1].offset, 4), "wxyz");
  EXPECT_EQ(result.value().metadata.at("format"), "pt");
}

TEST(SafetensorsWriter, RoundTripInAnyOrder) {
  const TemporaryDirectory folder;
  const std::string path = folder.path() + "/x.safetensors";
  const std::vector<TensorSpec> specs = {{"small", DType::u8, {3}},
                                         {"scale", DType::f32, {}},
                                         {"w \"quoted\"", DType::bf16, {2, 3}},
                                         {"empty", DType::bf16, {0, 4}}};
  {
    auto writer = SafetensorsWriter::create(path, specs);
    ASSERT_TRUE(writer.ok()) << writer.error().message;
    ASSERT_TRUE(writer.value().append("w \"quoted\"", as_byte_span("0123456")).ok());
    ASSERT_TRUE(writer.value().append("small", as_byte_span("abc")).ok());
    ASSERT_TRUE(writer.value().append("scale", as_byte_span("ABCD")).ok());
    EXPECT_FALSE(writer.value().complete());
    EXPECT_FALSE(file_exists(path));
    ASSERT_TRUE(writer.value().append("w \"quoted\"", as_byte_span("789ab")).ok());
    ASSERT_TRUE(writer.value().complete());
    ASSERT_TRUE(writer.value().finish().ok());
  }
  EXPECT_EQ(list_directory(folder.path()).value(), std::vector<std::string>{"x.safetensors"});
  const auto reader = SafetensorsReader::open(path);
  ASSERT_TRUE(reader.ok()) << reader.error().message;
  EXPECT_EQ(reader.value().metadata().at("format"), "pt");
  const auto text = [&](const char* name) {
    const auto bytes = reader.value().bytes(*reader.value().find(name));
    return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  };
  EXPECT_EQ(text("w \"quoted\""), "0123456789ab");
  EXPECT_EQ(text("small"), "abc");
  EXPECT_EQ(text("scale"), "ABCD");
  EXPECT_EQ(text("empty"), "");
  EXPECT_EQ(reader.value().find("w \"quoted\"")->shape, (Shape{2, 3}));
  EXPECT_EQ(reader.value().find("nothing"), nullptr);
}

TEST(SafetensorsWriter, LeavesNothingWhenDropped) {
  const TemporaryDirectory folder;
  {
    auto writer =
        SafetensorsWriter::create(folder.path() + "/x.safetensors", {{"a", DType::u8, {4}}});
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer.value().append("a", as_byte_span("ab")).ok());
  }
  EXPECT_TRUE(list_directory(folder.path()).value().empty());
}

TEST(SafetensorsWriter, RefusesRepeatedNamesAndBadFolders) {
  const TemporaryDirectory folder;
  const std::vector<TensorSpec> twice = {{"a", DType::u8, {1}}, {"a", DType::u8, {1}}};
  EXPECT_FALSE(SafetensorsWriter::create(folder.path() + "/x.safetensors", twice).ok());
  EXPECT_FALSE(SafetensorsWriter::create(folder.path() + "/no/x.safetensors", {}).ok());
}

TEST(SafetensorsWriterDeathTest, TooManyBytesAbort) {
  const TemporaryDirectory folder;
  auto writer = SafetensorsWriter::create(folder.path() + "/x", {{"a", DType::u8, {2}}});
  ASSERT_TRUE(writer.ok());
  EXPECT_DEATH((void)writer.value().append("a", as_byte_span("abc")), "more bytes");
  EXPECT_DEATH((void)writer.value().append("b", as_byte_span("a")), "not declared");
  EXPECT_DEATH((void)writer.value().finish(), "incomplete");
}

}  // namespace
}  // namespace nibble::formats
