// Tests for what eval kld refuses, and for the figures of the demo model against its own base
// files.
#include "cli/kld_comparison.h"

#include "base/file.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

namespace nibble::cli {
namespace {

constexpr const char* kDemo = "models/demo";
constexpr const char* kText = "models/demo/eval/heldout_generated.txt";

class KldComparisonTest : public testing::Test {
 protected:
  static KldOptions demo() {
    KldOptions options;
    options.model.model = kDemo;
    options.model.device = "cpu";
    options.model.threads = 2;
    options.eval.data = kText;
    options.eval.mode = "documents";
    options.eval.limit = 3;
    options.noise_tokens = 0;
    return options;
  }
  static std::string refusal(const KldOptions& options) {
    const Result<void> done = KldComparison(options).run();
    return done.ok() ? "" : done.error().message;
  }
  static void expect_refusal(const KldOptions& options, const std::string& part) {
    const std::string said = refusal(options);
    EXPECT_NE(said.find(part), std::string::npos) << said;
  }
  std::string base_file(const std::string& format) {
    KldOptions options = demo();
    options.save_base = folder_.file("base-" + format);
    options.format = format;
    EXPECT_EQ(refusal(options), "");
    return options.save_base;
  }

  TempFolder folder_;
};

TEST_F(KldComparisonTest, NeedsABaseAndAText) {
  KldOptions options = demo();
  expect_refusal(options, "nothing to compare with");
  options.base = kDemo;
  options.eval.data = "";
  expect_refusal(options, "--data is required");
  options.eval.data = folder_.file("none.txt");
  expect_refusal(options, "expected a text file");
  options.eval.data = kText;
  options.base = folder_.file("none");
  expect_refusal(options, "none: No such file");
}

TEST_F(KldComparisonTest, OtherVocabulary) {
  KldOptions options = demo();
  options.base = "testdata/goldens/modelopt/source";
  expect_refusal(options, "source has a vocabulary of 512, models/demo one of 3072");
}

TEST_F(KldComparisonTest, BaseFilesOfTheModelItself) {
  for (const std::string format : {"full", "exact", "topk"}) {
    SCOPED_TRACE(format);
    KldOptions options = demo();
    options.base = base_file(format);
    options.eval.data = "";  // the file's own tokens
    KldComparison comparison(options);
    const Result<void> done = comparison.run();
    ASSERT_TRUE(done.ok()) << done.error().message;
    const eval::KldResult result = comparison.result();
    EXPECT_LT(std::abs(result.report.kld.value), 1e-6);
    EXPECT_EQ(result.report.same_top.value, 1);
    ASSERT_FALSE(result.remarks.empty());
    EXPECT_NE(result.remarks[0].find("noise floor"), std::string::npos);
  }
}

TEST_F(KldComparisonTest, BaseFilesThatDoNotFit) {
  KldOptions options = demo();
  options.base = base_file("full");
  options.eval.limit = 2;  // other tokens than the file's three documents
  expect_refusal(options, "was made from other tokens");
  options.eval.limit = 3;
  options.pair = true;
  expect_refusal(options, "--pair and --save-base need a model directory");
  options.pair = false;
  const std::string bytes = read_file(options.base).value();
  for (const size_t length : {size_t{4}, size_t{60}, bytes.size() / 2, bytes.size() - 1}) {
    ASSERT_TRUE(write_file_atomic(options.base, bytes.substr(0, length)).ok());
    expect_refusal(options, options.base + ": ");
  }
}

}  // namespace
}  // namespace nibble::cli
