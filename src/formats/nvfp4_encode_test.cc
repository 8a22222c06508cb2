// Tests for the NVFP4 encoder: the published vectors under every version and division, the scalar
// divisions, and the special cases of nvfp4.md 1.5.
#include "formats/nvfp4_encode.h"

#include "base/json.h"
#include "formats/bf16.h"
#include "formats/e4m3.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace nibble::formats {
namespace {

constexpr Nvfp4Rules kRules;  // recip, clamped

Json vectors() {
  return std::move(read_json_file("testdata/nvfp4_vectors.json")).value();
}

float from_hex(const Json& hex) {
  return std::bit_cast<float>(
      static_cast<uint32_t>(std::stoul(hex.get<std::string>(), nullptr, 16)));
}

uint32_t bits(float x) {
  return std::bit_cast<uint32_t>(x);
}

std::vector<float> floats(const Json& list) {
  std::vector<float> out;
  for (const auto& item : list) out.push_back(from_hex(item));
  return out;
}

std::string hex(const std::vector<uint8_t>& bytes) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const uint8_t byte : bytes) out += {kDigits[byte >> 4], kDigits[byte & 15]};
  return out;
}

struct Encoded {
  std::vector<uint8_t> scales, codes;
};

Encoded encode(const std::vector<float>& values, float tensor_scale, const Nvfp4Rules& rules,
               size_t columns = 16) {
  Encoded out{std::vector<uint8_t>(values.size() / 16), std::vector<uint8_t>(values.size() / 2)};
  for (size_t first = 0; first < values.size(); first += columns) {
    encode_nvfp4_row({values.data() + first, columns}, tensor_scale, rules,
                     out.codes.data() + first / 2, out.scales.data() + first / 16);
  }
  return out;
}

Nvfp4Rules rules_of(const std::string& name) {
  Nvfp4Rules rules;
  rules.division = name.ends_with("ieee") ? ScalarDivision::ieee : ScalarDivision::recip;
  rules.clamps_block_scales = name.find("0.44") == std::string::npos;
  return rules;
}

void check(const std::vector<float>& values, size_t columns, float amax, const Json& result,
           const Nvfp4Rules& rules) {
  const float tensor_scale = nvfp4_tensor_scale(amax, rules.division);
  EXPECT_EQ(bits(tensor_scale), bits(from_hex(result["weight_scale_2"])));
  const Encoded mine = encode(values, tensor_scale, rules, columns);
  EXPECT_EQ(hex(mine.scales), result["weight_scale_bytes"].get<std::string>());
  EXPECT_EQ(hex(mine.codes), result["packed_bytes"].get<std::string>());
}

TEST(Nvfp4Encode, PublishedCases) {
  const Json all = vectors();
  size_t checked = 0;
  for (const auto& one : all["cases"]) {
    const std::vector<float> values = floats(one["weight_f32_hex"]);
    EXPECT_EQ(bits(max_magnitude(values)), bits(from_hex(one["global_amax"])));
    for (const auto& [name, result] : one["results"].items()) {
      SCOPED_TRACE(one["name"].get<std::string>() + " " + name);
      check(values, one["shape"][1].get<size_t>(), from_hex(one["global_amax"]), result,
            rules_of(name));
      ++checked;
    }
  }
  EXPECT_GE(checked, 9u);
}

TEST(Nvfp4Encode, GateAndUpWithOneScale) {
  const Json one = vectors()["fused_case"];
  const Nvfp4Rules rules = rules_of("0.45_ieee");
  for (const char* part : {"gate", "up"}) {
    SCOPED_TRACE(part);
    const std::vector<float> values = floats(one[std::string(part) + "_f32_hex"]);
    check(values, values.size(), from_hex(one["shared_amax"]), one[part], rules);
  }
}

TEST(Nvfp4Encode, DivisionsDifferForThePublishedSignificands) {
  const Json listed = vectors()["bf16_significands_where_ieee_and_recip_differ"];
  for (const auto& [label, divisor] :
       {std::pair("by_2688", 2688.0f), std::pair("by_448", 448.0f)}) {
    const auto list = listed[label].get<std::vector<unsigned>>();
    const std::set<unsigned> expected(list.begin(), list.end());
    for (unsigned significand = 0; significand < 128; ++significand) {
      const float amax = bf16_to_f32(static_cast<uint16_t>(0x3F80 + significand));
      const bool differs = divide_scalar(amax, divisor, ScalarDivision::ieee) !=
                           divide_scalar(amax, divisor, ScalarDivision::recip);
      EXPECT_EQ(differs, expected.contains(significand)) << label << " " << significand;
    }
  }
}

TEST(Nvfp4Encode, KvAndInputScales) {
  const Json all = vectors();
  for (const auto& one : all["kv_scale"]) {
    const float amax = from_hex(one["amax"]);
    EXPECT_EQ(bits(fp8_tensor_scale(amax, ScalarDivision::ieee)),
              bits(from_hex(one["scale_ieee"])));
    EXPECT_EQ(bits(fp8_tensor_scale(amax, ScalarDivision::recip)),
              bits(from_hex(one["scale_recip"])));
  }
  for (const auto& one : all["input_scale"]) {
    const float amax = from_hex(one["amax"]);
    EXPECT_EQ(bits(nvfp4_tensor_scale(amax, ScalarDivision::ieee)),
              bits(from_hex(one["input_scale_ieee"])));
    EXPECT_EQ(bits(nvfp4_tensor_scale(amax, ScalarDivision::recip)),
              bits(from_hex(one["input_scale_recip"])));
  }
}

TEST(Nvfp4Encode, ZeroBlockHasScaleOneAndNoCodes) {
  const Encoded out = encode(std::vector<float>(16, -0.0f), 0.25f, kRules);
  EXPECT_EQ(hex(out.scales), "38");
  EXPECT_EQ(hex(out.codes), "0000000000000000");
}

TEST(Nvfp4Encode, RatioBelowTheSmallestScale) {
  std::vector<float> values(16, 0.0f);
  values[0] = 6 * 0x1p-11f;  // ratio 2^-11 at tensor scale 1
  values[1] = -values[0];
  EXPECT_EQ(hex(encode(values, 1.0f, kRules).scales), "01");
  const Nvfp4Rules old{ScalarDivision::recip, false};
  const Encoded dead = encode(values, 1.0f, old);
  EXPECT_EQ(hex(dead.scales), "00");
  EXPECT_EQ(hex(dead.codes), "f777777777777777");  // x/0: 7 or F, 0/0: 7
}

TEST(Nvfp4Encode, RatioAboveTheLargestScale) {
  const std::vector<float> values(16, 6 * 500.0f);
  EXPECT_EQ(hex(encode(values, 1.0f, kRules).scales), "7e");
  EXPECT_EQ(hex(encode(values, 1.0f, {ScalarDivision::recip, false}).scales), "7f");
}

TEST(Nvfp4Encode, AllZeroTensorUnderModelOptsRule) {
  const Encoded out = encode(std::vector<float>(16, 0.0f), 0.0f, kRules);
  EXPECT_EQ(hex(out.scales), "7f");  // NaN, sign never written
  EXPECT_EQ(hex(out.codes), "7777777777777777");
}

TEST(Nvfp4Encode, NotANumberSticksToTheMaximum) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(max_magnitude(std::vector<float>{1.0f, nan, 2.0f})));
  EXPECT_TRUE(std::isnan(max_magnitude(std::vector<float>{nan, 2.0f})));
  EXPECT_TRUE(std::isnan(max_or_nan(nan, 1.0f)));
  EXPECT_TRUE(std::isnan(max_or_nan(1.0f, nan)));
  EXPECT_EQ(max_or_nan(1.0f, 2.0f), 2.0f);
  EXPECT_EQ(max_magnitude(std::vector<float>{-3.0f, 2.0f}), 3.0f);
  EXPECT_EQ(max_magnitude({}), 0.0f);
}

TEST(Nvfp4Encode, StaticScaleReturnsEveryCandidate) {
  const float global = 0.0737f;
  for (int code = 1; code < 127; ++code) {
    const float block = global * (e4m3_to_f32(static_cast<uint8_t>(code)) / 448.0f);
    for (const ScalarDivision division : {ScalarDivision::ieee, ScalarDivision::recip}) {
      EXPECT_EQ(static_block_scale(block, global, 448, {division, true}), code);
    }
  }
}

}  // namespace
}  // namespace nibble::formats
