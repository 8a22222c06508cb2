// Tests for base files: both layouts, what a comparison reads back, and files that lie.
#include "eval/kld/base_file.h"

#include "base/file.h"
#include "base/rng.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>

namespace nibble::eval {
namespace {

constexpr int64_t kVocab = 33;

std::vector<ScoredSequence> windows() {
  return {{{1, 2, 3, 4, 5, 6, 7, 8}, 5}, {{8, 7, 6, 5, 4, 3, 2, 1}, 5}};
}

// Logits of every scored position.
std::vector<std::vector<float>> logits(uint64_t seed) {
  Rng rng(seed);
  std::vector<std::vector<float>> rows(6, std::vector<float>(kVocab));
  for (auto& row : rows) {
    for (float& x : row) x = static_cast<float>(10 * rng.unit());
  }
  return rows;
}

BaseFileInfo info_of(BaseFormat format, BaseEncoding encoding) {
  BaseFileInfo info;
  info.format = format;
  const bool has_tail = format == BaseFormat::nibble && encoding == BaseEncoding::codes16;
  info.layout = {encoding, kVocab, 10, has_tail};
  info.context = 8;
  info.model = "some/model";
  info.kv_dtype = "BF16";
  return info;
}

std::string written(const TempFolder& folder, const BaseFileInfo& info) {
  const std::string path = folder.file("base");
  const std::vector<ScoredSequence> sequences = windows();
  auto writer = BaseFileWriter::create(path, info, sequences).value();
  size_t row = 0;
  const auto rows = logits(1);
  for (const ScoredSequence& sequence : sequences) {
    for (int32_t i = sequence.first_scored; i < sequence.length(); ++i) {
      EXPECT_TRUE(writer->add(rows[row++], sequence.tokens[static_cast<size_t>(i)]).ok());
    }
  }
  EXPECT_FALSE(file_exists(path));  // not before it is whole
  EXPECT_TRUE(writer->finish().ok());
  EXPECT_EQ(writer->bytes(), static_cast<int64_t>(std::filesystem::file_size(path)));
  return path;
}

TEST(BaseFile, EveryEncodingComparesLikeTheLogitsItKeeps) {
  for (const BaseEncoding encoding :
       {BaseEncoding::codes16, BaseEncoding::logits32, BaseEncoding::top_entries}) {
    const TempFolder folder;
    const auto reader =
        BaseFileReader::open(written(folder, info_of(BaseFormat::nibble, encoding))).value();
    EXPECT_EQ(sequences_digest(reader->sequences()), sequences_digest(windows()));
    EXPECT_EQ(reader->info().model, "some/model");
    EXPECT_EQ(reader->rows(), 6);
    const auto base = logits(1), model = logits(2);
    const int32_t tokens[] = {6, 7, 8, 3, 2, 1};  // the true ones
    std::vector<float> scratch;
    for (size_t row = 0; row < 6; ++row) {
      const PositionRecord exact =
          compare_position(normalized(base[row]), normalized(model[row]), tokens[row]);
      const PositionRecord read =
          reader->compare(static_cast<int64_t>(row), normalized(model[row]), tokens[row], scratch)
              .value();
      if (encoding == BaseEncoding::top_entries) {
        EXPECT_LE(read.kld, exact.kld + 1e-6);
      } else if (encoding == BaseEncoding::logits32) {
        EXPECT_EQ(read.kld, exact.kld);
      } else {
        EXPECT_NEAR(read.kld, exact.kld, 1e-3);
        // The same rounded distribution on both sides: what the rounding alone gives.
        const PositionRecord own =
            reader->compare(static_cast<int64_t>(row), normalized(base[row]), tokens[row], scratch)
                .value();
        EXPECT_LT(own.kld, 1e-8);
        EXPECT_GE(own.kld, 0);
      }
      EXPECT_EQ(read.base_top, exact.base_top);
      EXPECT_NEAR(read.base_nll, exact.base_nll, 1e-5);
    }
  }
}

TEST(BaseFile, LlamaLayoutByteByByte) {
  const TempFolder folder;
  const std::string path = written(folder, info_of(BaseFormat::llama, BaseEncoding::codes16));
  const std::string bytes = read_file(path).value();
  const size_t row_bytes = 8 + 2 * 34;  // two floats, 33 codes padded to 34
  ASSERT_EQ(bytes.size(), 8 + 3 * 4 + 16 * 4 + 6 * row_bytes);
  EXPECT_EQ(bytes.substr(0, 8), "_logits_");
  int32_t header[5];
  std::memcpy(header, bytes.data() + 8, sizeof header);
  EXPECT_EQ(header[0], 8);
  EXPECT_EQ(header[1], 33);
  EXPECT_EQ(header[2], 2);
  EXPECT_EQ(header[3], 1);  // the first tokens
  EXPECT_EQ(header[4], 2);
  const auto reader = BaseFileReader::open(path).value();
  EXPECT_EQ(reader->sequences()[1].first_scored, 5);
  EXPECT_EQ(reader->rows(), 6);
}

TEST(BaseFile, LlamaLayoutNeedsItsWindows) {
  const TempFolder folder;
  const std::vector<ScoredSequence> documents = {{{1, 2, 3}, 1}};
  const auto refused = BaseFileWriter::create(
      folder.file("base"), info_of(BaseFormat::llama, BaseEncoding::codes16), documents);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
}

TEST(BaseFile, UnfinishedFilesLeaveNothing) {
  const TempFolder folder;
  const std::string path = folder.file("base");
  {
    const auto sequences = windows();
    auto writer =
        BaseFileWriter::create(path, info_of(BaseFormat::nibble, BaseEncoding::codes16), sequences);
    ASSERT_TRUE(writer.ok());
  }
  EXPECT_TRUE(list_directory(folder.path()).value().empty());
}

TEST(BaseFile, LiesAreRefused) {
  for (const BaseFormat format : {BaseFormat::nibble, BaseFormat::llama}) {
    const TempFolder folder;
    const std::string good =
        read_file(written(folder, info_of(format, BaseEncoding::codes16))).value();
    const std::string path = folder.file("broken");
    const auto expect_refused = [&](const std::string& bytes) {
      ASSERT_TRUE(write_file_atomic(path, bytes).ok());
      const auto opened = BaseFileReader::open(path);
      ASSERT_FALSE(opened.ok()) << bytes.size();
      EXPECT_EQ(opened.error().code, ErrorCode::corrupt) << opened.error().message;
    };
    for (const size_t size : {size_t{4}, size_t{12}, size_t{19}, size_t{60}, good.size() - 1}) {
      expect_refused(good.substr(0, size));
    }
    expect_refused(good + "x");
    std::string huge = good;
    std::memset(huge.data() + 8, 0x7F, 12);
    expect_refused(huge);
  }
}

TEST(BaseFile, AChangedTokenIsNoticed) {
  const TempFolder folder;
  std::string bytes =
      read_file(written(folder, info_of(BaseFormat::nibble, BaseEncoding::codes16))).value();
  const size_t rows = 6 * (8 + 2 * 34 + 8);
  bytes[bytes.size() - rows - 4] ^= 1;  // the last token
  ASSERT_TRUE(write_file_atomic(folder.file("changed"), bytes).ok());
  const auto opened = BaseFileReader::open(folder.file("changed"));
  ASSERT_FALSE(opened.ok());
  EXPECT_NE(opened.error().message.find("token_sha256"), std::string::npos);
}

}  // namespace
}  // namespace nibble::eval
