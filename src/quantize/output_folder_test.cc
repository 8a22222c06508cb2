// Tests for OutputFolder: nothing half done has the final name, nothing foreign is touched.
#include "quantize/output_folder.h"

#include "base/file.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace nibble::quantize {
namespace {

namespace fs = std::filesystem;

class OutputFolderTest : public ::testing::Test {
 protected:
  OutputFolder open(const std::string& job, Existing existing = Existing::refuse) {
    auto folder = OutputFolder::open(destination_, job, existing);
    EXPECT_TRUE(folder.ok()) << (folder.ok() ? "" : folder.error().message);
    return std::move(folder).value();
  }
  void write(const std::string& path, const std::string& text) {
    ASSERT_TRUE(write_file_atomic(path, text).ok());
  }
  std::string error(const std::string& destination, Existing existing = Existing::refuse) {
    const auto folder = OutputFolder::open(destination, "job", existing);
    return folder.ok() ? "" : folder.error().message;
  }

  TempFolder temporary_;
  std::string destination_ = temporary_.file("model");
  std::string partial_ = destination_ + ".partial";
};

TEST_F(OutputFolderTest, AppearsWhole) {
  OutputFolder folder = open("job");
  write(folder.file("a"), "1");
  write(folder.note("calibration"), "2");
  write(folder.file("shard.tmp"), "half");
  EXPECT_FALSE(fs::exists(destination_));
  ASSERT_TRUE(folder.publish().ok());
  EXPECT_FALSE(fs::exists(partial_));
  EXPECT_EQ(list_directory(destination_).value(), std::vector<std::string>{"a"});
}

TEST_F(OutputFolderTest, SameJobContinuesAnotherStartsAnew) {
  { write(open("job").file("a"), "1"); }
  {
    const OutputFolder again = open("job");
    EXPECT_TRUE(again.continues());
    EXPECT_TRUE(file_exists(again.file("a")));
  }
  const OutputFolder other = open("other job");
  EXPECT_FALSE(other.continues());
  EXPECT_FALSE(file_exists(other.file("a")));
}

TEST_F(OutputFolderTest, ExistingDestinationIsKept) {
  write(destination_, "a file");
  EXPECT_NE(error(destination_).find("exists already"), std::string::npos);
  EXPECT_NE(error(destination_ + "//").find("exists already"), std::string::npos);
  EXPECT_FALSE(fs::exists(partial_));
}

TEST_F(OutputFolderTest, ReplacesWhenAsked) {
  fs::create_directory(destination_);
  write(destination_ + "/old", "1");
  OutputFolder folder = open("job", Existing::replace);
  write(folder.file("new"), "2");
  EXPECT_TRUE(file_exists(destination_ + "/old"));
  ASSERT_TRUE(folder.publish().ok());
  EXPECT_EQ(list_directory(destination_).value(), std::vector<std::string>{"new"});
  EXPECT_EQ(list_directory(temporary_.path()).value(), std::vector<std::string>{"model"});
}

TEST_F(OutputFolderTest, ForeignPartialFolderIsNotTouched) {
  fs::create_directory(partial_);
  write(partial_ + "/thesis", "1");
  EXPECT_NE(error(destination_).find("not made by nibble"), std::string::npos);
  EXPECT_TRUE(file_exists(partial_ + "/thesis"));
}

TEST_F(OutputFolderTest, KilledBetweenExchangeAndCleanUp) {
  // What publish() leaves under the partial name when it is killed after the exchange.
  fs::create_directory(partial_);
  write(partial_ + "/.nibble-job", "replaced\n");
  write(partial_ + "/old", "1");
  const OutputFolder folder = open("job");
  EXPECT_FALSE(folder.continues());
  EXPECT_FALSE(file_exists(folder.file("old")));
}

TEST_F(OutputFolderTest, KilledBetweenRenameAndCleanUp) {
  OutputFolder folder = open("job");
  write(folder.file("a"), "1");
  write(folder.progress_note(), "all");
  fs::rename(partial_, destination_);
  EXPECT_NE(error(destination_).find("exists already"), std::string::npos);
  EXPECT_EQ(list_directory(destination_).value(), std::vector<std::string>{"a"});
}

TEST_F(OutputFolderTest, MarkOfARunThatReplacesIsLeft) {
  fs::create_directory(destination_);
  write(destination_ + "/.nibble-job", "replaced\n");
  EXPECT_NE(error(destination_).find("exists already"), std::string::npos);
  EXPECT_TRUE(file_exists(destination_ + "/.nibble-job"));
}

TEST_F(OutputFolderTest, OneWriterAtATime) {
  const OutputFolder first = open("job");
  EXPECT_NE(error(destination_).find("another nibble"), std::string::npos);
}

TEST_F(OutputFolderTest, NamesThatAreNone) {
  EXPECT_NE(error(""), "");
  EXPECT_NE(error("/"), "");
}

TEST_F(OutputFolderTest, DiscardLeavesNothing) {
  OutputFolder folder = open("job");
  write(folder.file("a"), "1");
  folder.discard();
  EXPECT_TRUE(list_directory(temporary_.path()).value().empty());
}

}  // namespace
}  // namespace nibble::quantize
