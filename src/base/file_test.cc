// Tests for whole-file reads and atomic writes.
#include "base/file.h"

#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <vector>

namespace nibble {
namespace {

TEST(File, RoundTripsEveryByteAndLongFiles) {
  const TempFolder folder;
  std::string bytes;
  for (int i = 0; i < 200000; ++i) bytes += static_cast<char>((i * 7) % 256);
  ASSERT_TRUE(write_file_atomic(folder.file("data"), bytes).ok());
  EXPECT_EQ(read_file(folder.file("data")).value(), bytes);
  ASSERT_TRUE(write_file_atomic(folder.file("data"), "").ok());
  EXPECT_EQ(read_file(folder.file("data")).value(), "");
}

TEST(File, AtomicWriteReplacesAndLeavesNoTemporary) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("a"), "old").ok());
  ASSERT_TRUE(write_file_atomic(folder.file("a"), "new").ok());
  EXPECT_EQ(read_file(folder.file("a")).value(), "new");
  EXPECT_EQ(list_directory(folder.path()).value(), std::vector<std::string>{"a"});
}

TEST(File, FailedWriteKeepsTheOldContents) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("a"), "old").ok());
  std::filesystem::create_directory(folder.file("a.tmp"));  // the temporary name is taken
  EXPECT_FALSE(write_file_atomic(folder.file("a"), "new").ok());
  EXPECT_EQ(read_file(folder.file("a")).value(), "old");
}

TEST(File, ErrorsNameThePathAndTheKind) {
  const TempFolder folder;
  const Result<std::string> missing = read_file(folder.file("none"));
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::not_found);
  EXPECT_NE(missing.error().message.find(folder.file("none")), std::string::npos);
  EXPECT_EQ(read_file(folder.path()).error().code, ErrorCode::io);
  EXPECT_EQ(write_file_atomic(folder.file("no/such/folder"), "x").error().code,
            ErrorCode::not_found);
  EXPECT_EQ(errno_error("p", EACCES).code, ErrorCode::permission);
  EXPECT_EQ(errno_error("p", EIO).code, ErrorCode::io);
}

TEST(File, ExistenceTellsFilesFromFolders) {
  const TempFolder folder;
  ASSERT_TRUE(write_file_atomic(folder.file("a"), "x").ok());
  EXPECT_TRUE(file_exists(folder.file("a")));
  EXPECT_FALSE(directory_exists(folder.file("a")));
  EXPECT_TRUE(directory_exists(folder.path()));
  EXPECT_FALSE(file_exists(folder.path()));
  EXPECT_FALSE(file_exists(folder.file("none")));
}

TEST(File, ListsSortedNames) {
  const TempFolder folder;
  for (const char* name : {"b", "a", "c"}) {
    ASSERT_TRUE(write_file_atomic(folder.file(name), "x").ok());
  }
  EXPECT_EQ(list_directory(folder.path()).value(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(list_directory(folder.file("none")).error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace nibble
