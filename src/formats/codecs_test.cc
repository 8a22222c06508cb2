// Tests for the element codecs and the NVFP4 block rule, against testdata/nvfp4_vectors.json (made
// by an independent generator whose encoders were checked against nearest-neighbour definitions).
#include "base/json.h"
#include "formats/bf16.h"
#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "formats/fp8.h"
#include "formats/nvfp4.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace nibble::formats {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

Json vectors() {
  auto json = read_json_file("testdata/nvfp4_vectors.json");
  return std::move(json).value();
}

float from_hex(const std::string& hex) {
  return std::bit_cast<float>(static_cast<uint32_t>(std::stoul(hex, nullptr, 16)));
}

uint32_t bits(float x) {
  return std::bit_cast<uint32_t>(x);
}

std::vector<float> floats(const Json& list) {
  std::vector<float> out;
  for (const auto& item : list) out.push_back(from_hex(item.get<std::string>()));
  return out;
}

std::vector<uint8_t> hex_bytes(const std::string& hex) {
  std::vector<uint8_t> out;
  for (size_t i = 0; i < hex.size(); i += 2) {
    out.push_back(static_cast<uint8_t>(std::stoul(hex.substr(i, 2), nullptr, 16)));
  }
  return out;
}

TEST(E2m1, DecodeTable) {
  const Json table = vectors()["e2m1_values"];
  ASSERT_EQ(table.size(), 16u);
  for (uint8_t code = 0; code < 16; ++code) {
    EXPECT_EQ(bits(e2m1_to_f32(code)), bits(from_hex(table[code].get<std::string>()))) << +code;
  }
}

TEST(E2m1, EncodeTiesAndSpecialCases) {
  const std::pair<float, uint8_t> cases[] = {
      {0.25f, 0},       {0.75f, 2},  {1.25f, 2},   {1.75f, 4},  {2.5f, 4},
      {3.5f, 6},        {5.0f, 6},   {6.0f, 7},    {1e30f, 7},  {kInfinity, 7},
      {-kInfinity, 15}, {kNan, 7},   {-kNan, 7},   {0.0f, 0},   {-0.0f, 0},
      {-1e-30f, 8},     {-0.25f, 8}, {-0.75f, 10}, {-5.0f, 14}, {-5.1f, 15}};
  for (const auto& [x, code] : cases) EXPECT_EQ(e2m1_from_f32(x), code) << x;
}

TEST(E2m1, EncodeChangesExactlyAtTheMidpoints) {
  for (uint8_t code = 0; code < 7; ++code) {
    const float middle = (kE2m1Values[code] + kE2m1Values[code + 1]) / 2;
    const float below = std::nextafter(middle, 0.0f);
    const float above = std::nextafter(middle, 8.0f);
    EXPECT_EQ(e2m1_from_f32(below), code);
    EXPECT_EQ(e2m1_from_f32(above), code + 1);
    EXPECT_EQ(e2m1_from_f32(middle), code % 2 == 0 ? code : code + 1);
    EXPECT_EQ(e2m1_from_f32(-above), 8 | (code + 1));
  }
}

TEST(E4m3, DecodeTable) {
  const Json table = vectors()["e4m3_values"];
  ASSERT_EQ(table.size(), 256u);
  for (int code = 0; code < 256; ++code) {
    const auto byte = static_cast<uint8_t>(code);
    const auto want = table[static_cast<size_t>(code)].get<std::string>();
    if (want == "nan") {
      EXPECT_TRUE(std::isnan(e4m3_to_f32(byte))) << code;
    } else {
      EXPECT_EQ(bits(e4m3_to_f32(byte)), bits(from_hex(want))) << code;
    }
  }
}

TEST(E4m3, EncodeEdges) {
  const Json edges = vectors()["e4m3_encode_edges"];
  ASSERT_GE(edges.size(), 20u);
  for (const auto& edge : edges) {
    const float x = from_hex(edge[0].get<std::string>());
    EXPECT_EQ(e4m3_from_f32(x), std::stoul(edge[1].get<std::string>(), nullptr, 16)) << x;
  }
  EXPECT_EQ(e4m3_from_f32(kNan), 0x7F);
  EXPECT_EQ(e4m3_from_f32(-kInfinity), 0xFF);
}

// Nearest finite code by search, ties to the even code: the definition, not the bit trick.
uint8_t nearest_e4m3(float x) {
  const double a = std::fabs(static_cast<double>(x));
  uint8_t best = 0;
  for (uint8_t code = 1; code <= 0x7E; ++code) {
    const double now = std::fabs(a - static_cast<double>(e4m3_to_f32(code)));
    const double then = std::fabs(a - static_cast<double>(e4m3_to_f32(best)));
    if (now < then || (now == then && code % 2 == 0)) best = code;
  }
  return static_cast<uint8_t>(best | (std::signbit(x) ? 0x80 : 0));
}

TEST(E4m3, EncodeEveryBf16PatternAndEveryMidpoint) {
  std::vector<float> inputs;
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    inputs.push_back(bf16_to_f32(static_cast<uint16_t>(pattern)));
  }
  for (uint8_t code = 0; code < 0x7E; ++code) {
    const float middle = (e4m3_to_f32(code) + e4m3_to_f32(static_cast<uint8_t>(code + 1))) / 2;
    for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      inputs.push_back(x);
      inputs.push_back(-x);
    }
  }
  for (const float x : inputs) {
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(e4m3_to_f32(e4m3_from_f32(x))));
      EXPECT_TRUE(std::isnan(e4m3_to_f32(e4m3_from_f32_saturating(x))));
      continue;
    }
    const uint8_t nearest = nearest_e4m3(x);
    const auto nan = static_cast<uint8_t>(std::signbit(x) ? 0xFF : 0x7F);
    ASSERT_EQ(e4m3_from_f32(x), std::fabs(x) > 464.0f ? nan : nearest) << x;
    ASSERT_EQ(e4m3_from_f32_saturating(x), nearest) << x;
  }
}

TEST(Bf16, RoundsToNearestEven) {
  const std::pair<uint32_t, uint16_t> cases[] = {
      {0x3F800000, 0x3F80}, {0x3F808000, 0x3F80}, {0x3F818000, 0x3F82}, {0x3F808001, 0x3F81},
      {0x3F807FFF, 0x3F80}, {0x7F7FFFFF, 0x7F80}, {0x7F800000, 0x7F80}, {0xFF800000, 0xFF80},
      {0x80000000, 0x8000}, {0x00008000, 0x0000}, {0x00008001, 0x0001}, {0x7F800001, 0x7FC0},
      {0xFFFFFFFF, 0x7FC0}};
  for (const auto& [in, out] : cases) EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(in)), out);
  for (uint32_t pattern = 0; pattern < 65536; ++pattern) {
    const auto half = static_cast<uint16_t>(pattern);
    const float x = bf16_to_f32(half);
    EXPECT_EQ(bf16_from_f32(x), std::isnan(x) ? 0x7FC0 : half);
  }
}

// One published matrix: scale bytes from the raw ratios, codes, packing and decoded values.
void check_nvfp4(const std::vector<float>& weight, int64_t columns, const Json& result,
                 bool clamps) {
  const float tensor_scale = from_hex(result["weight_scale_2"].get<std::string>());
  const auto scales = hex_bytes(result["weight_scale_bytes"].get<std::string>());
  const auto packed = hex_bytes(result["packed_bytes"].get<std::string>());
  const auto dequant = floats(result["dequant"]);
  const auto raw = floats(result["raw_block_scale"]);
  ASSERT_EQ(scales.size(), raw.size());
  for (size_t b = 0; b < raw.size(); ++b) {
    const float ratio = clamps ? std::min(std::max(raw[b], kE4m3MinSubnormal), kE4m3Max) : raw[b];
    EXPECT_EQ(e4m3_from_f32(ratio), scales[b]) << "block " << b;
  }
  std::vector<uint8_t> codes(weight.size());
  for (size_t i = 0; i < weight.size(); ++i) {
    codes[i] = e2m1_from_f32(weight[i] / (e4m3_to_f32(scales[i / 16]) * tensor_scale));
  }
  const size_t k = static_cast<size_t>(columns);
  for (size_t row = 0; row < weight.size() / k; ++row) {
    std::vector<uint8_t> bytes(k / 2);
    for (size_t i = 0; i < k; i += 2) {
      bytes[i / 2] = static_cast<uint8_t>(codes[row * k + i] | codes[row * k + i + 1] << 4);
    }
    EXPECT_EQ(bytes,
              std::vector<uint8_t>(packed.begin() + static_cast<int64_t>(row * k / 2),
                                   packed.begin() + static_cast<int64_t>((row + 1) * k / 2)));
    std::vector<float> decoded(k);
    nvfp4_decode_row(&packed[row * k / 2], &scales[row * k / 16], tensor_scale, columns,
                     decoded.data());
    for (size_t i = 0; i < k; ++i) {
      ASSERT_EQ(bits(decoded[i]), bits(dequant[row * k + i])) << "row " << row << " element " << i;
    }
  }
}

TEST(Nvfp4, PublishedMatrices) {
  const Json all = vectors();
  ASSERT_GE(all["cases"].size(), 3u);
  for (const auto& one : all["cases"]) {
    for (const auto& [name, result] : one["results"].items()) {
      SCOPED_TRACE(one["name"].get<std::string>() + " " + name);
      check_nvfp4(floats(one["weight_f32_hex"]), one["shape"][1].get<int64_t>(), result,
                  name.find("0.45") != std::string::npos);
    }
  }
}

TEST(Nvfp4, ScaleSignIsIgnoredAndNanIsFound) {
  const uint8_t codes[8] = {0x21, 0x43, 0x65, 0x87, 0xA9, 0xCB, 0xED, 0x0F};
  const uint8_t plus = 0x38;
  const uint8_t minus = 0xB8;
  float a[16];
  float b[16];
  nvfp4_decode_row(codes, &plus, 0.5f, 16, a);
  nvfp4_decode_row(codes, &minus, 0.5f, 16, b);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(bits(a[i]), bits(b[i]));
  EXPECT_EQ(a[0], 0.25f);  // low nibble first
  EXPECT_EQ(a[1], 0.5f);
  const uint8_t good[4] = {0x00, 0x7E, 0xFE, 0x38};
  const uint8_t bad[4] = {0x00, 0x7E, 0xFF, 0x38};
  EXPECT_FALSE(nvfp4_scales_have_nan(good, 4));
  EXPECT_TRUE(nvfp4_scales_have_nan(bad, 4));
}

TEST(Fp8, DecodesWithTheTensorScale) {
  const uint8_t codes[4] = {0x38, 0xB8, 0x7E, 0x01};
  float out[4];
  fp8_decode_row(codes, 0.25f, 4, out);
  EXPECT_EQ(out[0], 0.25f);
  EXPECT_EQ(out[1], -0.25f);
  EXPECT_EQ(out[2], 112.0f);
  EXPECT_EQ(out[3], 0x1p-11f);
}

}  // namespace
}  // namespace nibble::formats
