// Tests for compressed text files: what the usual tools write, joined files, damage, bombs.
#include "base/compressed_file.h"

#include "base/file.h"

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

#include <filesystem>
#include <string>

namespace nibble {
namespace {

std::string gzipped(const std::string& text) {
  std::string out(compressBound(static_cast<uLong>(text.size())) + 64, '\0');
  z_stream stream{};
  EXPECT_EQ(deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string zstd_packed(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 3));
  return out;
}

class CompressedFile : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              ("nibble_compressed_" + std::to_string(::getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  Result<std::string> read(const std::string& name, const std::string& bytes,
                           size_t max_bytes = kMaxUnpackedBytes) {
    const std::string path = (folder_ / name).string();
    EXPECT_TRUE(write_file_atomic(path, bytes).ok());
    return read_text_file(path, max_bytes);
  }

  std::filesystem::path folder_;
};

std::string long_text() {
  std::string text;
  for (int i = 0; i < 30000; ++i) text += "line " + std::to_string(i * 7919 % 10007) + "\n";
  return text;
}

TEST_F(CompressedFile, EveryFormGivesTheText) {
  const std::string text = long_text();
  EXPECT_EQ(read("a.txt", text).value(), text);
  EXPECT_EQ(read("a.txt.gz", gzipped(text)).value(), text);
  EXPECT_EQ(read("a.txt.zst", zstd_packed(text)).value(), text);
  EXPECT_EQ(read("empty.gz", gzipped("")).value(), "");
  EXPECT_EQ(read("empty.zst", zstd_packed("")).value(), "");
}

TEST_F(CompressedFile, JoinedFilesGiveBothTexts) {
  EXPECT_EQ(read("a.gz", gzipped("one\n") + gzipped("two\n")).value(), "one\ntwo\n");
  EXPECT_EQ(read("a.zst", zstd_packed("one\n") + zstd_packed("two\n")).value(), "one\ntwo\n");
}

TEST_F(CompressedFile, DamagedAndCutFilesAreRefused) {
  const std::string text = long_text();
  for (const auto& [name, bytes] : {std::pair(std::string("a.gz"), gzipped(text)),
                                    std::pair(std::string("a.zst"), zstd_packed(text))}) {
    for (const std::string& bad : {bytes.substr(0, bytes.size() / 2), bytes.substr(0, 3),
                                   bytes + "tail", std::string("no archive"), std::string()}) {
      const auto found = read(name, bad);
      ASSERT_FALSE(found.ok()) << name << ", " << bad.size() << " bytes";
      EXPECT_EQ(found.error().code, ErrorCode::corrupt);
    }
  }
}

TEST_F(CompressedFile, TooMuchTextIsRefused) {
  const std::string zeros(1 << 20, '0');
  EXPECT_EQ(read("a.gz", gzipped(zeros), 1 << 20).value().size(), zeros.size());
  EXPECT_EQ(read("a.gz", gzipped(zeros), (1 << 20) - 1).error().code, ErrorCode::exhausted);
  EXPECT_EQ(read("a.zst", zstd_packed(zeros), 1000).error().code, ErrorCode::exhausted);
}

TEST_F(CompressedFile, NamesWithoutTheEnding) {
  EXPECT_EQ(uncompressed_name("a/b.jsonl.gz"), "a/b.jsonl");
  EXPECT_EQ(uncompressed_name("b.txt.zst"), "b.txt");
  EXPECT_EQ(uncompressed_name("b.txt"), "b.txt");
}

}  // namespace
}  // namespace nibble
