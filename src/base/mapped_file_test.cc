// Tests for MappedFile: bytes as written, moves, empty and missing files.
#include "base/mapped_file.h"

#include "base/file.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

namespace nibble {
namespace {

std::string_view text_of(const MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, ShowsTheBytesOfTheFile) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("a"), "weights").ok());
  const Result<MappedFile> file = MappedFile::open(folder.file("a"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(text_of(file.value()), "weights");
}

TEST(MappedFile, MovesKeepExactlyOneOwner) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("a"), "first").ok());
  ASSERT_TRUE(write_file_atomic(folder.file("b"), "second").ok());
  MappedFile first = MappedFile::open(folder.file("a")).value();
  MappedFile second = MappedFile::open(folder.file("b")).value();
  MappedFile moved(std::move(first));
  EXPECT_TRUE(first.bytes().empty());  // NOLINT: the moved-from state is what is tested
  second = std::move(moved);
  EXPECT_TRUE(moved.bytes().empty());  // NOLINT: as above
  EXPECT_EQ(text_of(second), "first");
}

TEST(MappedFile, EmptyMissingAndFolder) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("empty"), "").ok());
  const Result<MappedFile> empty = MappedFile::open(folder.file("empty"));
  ASSERT_TRUE(empty.ok()) << empty.error().message;
  EXPECT_TRUE(empty.value().bytes().empty());
  EXPECT_EQ(MappedFile::open(folder.file("none")).error().code, ErrorCode::not_found);
  EXPECT_FALSE(MappedFile::open(folder.path()).ok());
}

// A death test: the guard ends the process.
TEST(MappedFileDeathTest, AFileThatShrinksIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const TempFolder folder;
  const std::string path = folder.file("weights");
  ASSERT_TRUE(write_file_atomic(path, std::string(100'000, 'x')).ok());
  const auto read_after_shrinking = [&] {
    install_mapped_file_guard(7);
    const MappedFile file = MappedFile::open(path).value();
    std::filesystem::resize_file(path, 1000);
    const volatile std::byte last = file.bytes()[99'999];
    std::exit(static_cast<int>(last));
  };
  EXPECT_EXIT(read_after_shrinking(), testing::ExitedWithCode(7), "weights: cannot be read");
}

}  // namespace
}  // namespace nibble
