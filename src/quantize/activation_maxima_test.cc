// Tests for calibration tables and token files.
#include "quantize/activation_maxima.h"

#include "base/file.h"
#include "quantize/token_file.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

namespace nibble::quantize {
namespace {

Result<ActivationMaxima> read(const std::string& text) {
  const TempFolder folder;
  const std::string path = folder.file("table.tsv");
  EXPECT_TRUE(write_file_atomic(path, text).ok());
  return ActivationMaxima::read_table(path);
}

std::string error_of(const std::string& text) {
  const auto table = read(text);
  return table.ok() ? "" : table.error().message;
}

TEST(ActivationMaxima, ReadsTheColumnsByName) {
  const auto table = read("amax\tformat\tquantizer\r\n3f800000\tx\ta.b\r\n40490fdb\ty\tc\r\n\r\n");
  ASSERT_TRUE(table.ok()) << table.error().message;
  EXPECT_EQ(table.value().find("a.b"), 1.0f);
  EXPECT_EQ(table.value().find("c"), 3.14159274f);
  EXPECT_EQ(table.value().find("d"), std::nullopt);
  EXPECT_EQ(table.value().values().size(), 2u);
}

TEST(ActivationMaxima, BlockMaximaAndAbsentOnes) {
  const auto table = read("quantizer\tamax\na\t#1024 3f800000\nb\t-\n");
  ASSERT_TRUE(table.ok()) << table.error().message;
  EXPECT_EQ(table.value().find("a"), 1.0f);
  EXPECT_EQ(table.value().find("b"), std::nullopt);
}

TEST(ActivationMaxima, SearchedWeightsHaveTheirTensorsMaximum) {
  const auto table =
      read("quantizer\tamax\tglobal_amax\na\t#4 3f800000\t40000000\nb\t40400000\t-\n");
  ASSERT_TRUE(table.ok()) << table.error().message;
  EXPECT_EQ(table.value().find("a"), 2.0f);
  EXPECT_EQ(table.value().find("b"), 3.0f);
}

TEST(ActivationMaxima, BadLinesAreAllNamed) {
  const std::string message =
      error_of("quantizer\tamax\na\t3f80\nb\nc\t3f80000g\nd\t3f800000\nd\t3f800000\ne\t#4\n");
  for (const char* part : {"line 2: amax '3f80'", "line 3: 1 columns", "line 4: amax '3f80000g'",
                           "line 6: quantizer 'd' appears twice", "line 7: amax '#4'"}) {
    EXPECT_NE(message.find(part), std::string::npos) << part << "\n" << message;
  }
  EXPECT_EQ(message.find("line 5"), std::string::npos) << message;
}

TEST(ActivationMaxima, HeaderIsNeeded) {
  EXPECT_NE(error_of("a\t3f800000\n").find("line 1"), std::string::npos);
  EXPECT_NE(error_of("").find("line 1"), std::string::npos);
  EXPECT_FALSE(ActivationMaxima::read_table("no/such/table").ok());
}

TEST(ActivationMaxima, TableGoesRoundUnchanged) {
  ActivationMaxima maxima;
  maxima.raise("tiny", 0x1p-149f);
  maxima.raise("pi", 3.14159274f);
  maxima.raise("zero", 0.0f);
  const auto again = read(maxima.table());
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again.value().values(), maxima.values());
}

TEST(ActivationMaxima, RaiseKeepsTheLargestAndNan) {
  ActivationMaxima maxima;
  maxima.raise("a", 2.0f);
  maxima.raise("a", 1.0f);
  EXPECT_EQ(maxima.find("a"), 2.0f);
  maxima.raise("a", std::numeric_limits<float>::quiet_NaN());
  maxima.raise("a", 3.0f);
  EXPECT_TRUE(std::isnan(*maxima.find("a")));
}

TEST(TokenFile, ReadsSequencesAndRefusesTheRest) {
  const TempFolder folder;
  const std::string path = folder.file("tokens.json");
  const auto read_tokens = [&](const std::string& text) {
    EXPECT_TRUE(write_file_atomic(path, text).ok());
    return read_token_file(path);
  };
  const auto good = read_tokens("[[1, 2, 3], [4]]");
  ASSERT_TRUE(good.ok());
  EXPECT_EQ(good.value(), (std::vector<std::vector<int32_t>>{{1, 2, 3}, {4}}));
  EXPECT_FALSE(read_tokens("[]").ok());
  EXPECT_FALSE(read_tokens("{}").ok());
  EXPECT_FALSE(read_tokens("[1, 2]").ok());
  EXPECT_FALSE(read_tokens("[[1], []]").ok());
  for (const char* bad : {"[[1], [2, -1]]", "[[1], [2, 1.5]]", "[[1], [2, 3000000000]]"}) {
    const auto refused = read_tokens(bad);
    ASSERT_FALSE(refused.ok()) << bad;
    EXPECT_NE(refused.error().message.find("sequence 1: element 1"), std::string::npos)
        << refused.error().message;
  }
}

}  // namespace
}  // namespace nibble::quantize
