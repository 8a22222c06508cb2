// Tests for quantize --report on the demo model: the default text, refused texts, and the figures
// of a model against itself.
#include "cli/report_measure.h"

#include "base/file.h"
#include "tests/support/temp_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

namespace nibble::cli {
namespace {

QuantizeOptions demo_options(const std::string& report) {
  QuantizeOptions options;
  options.source = "models/demo";
  options.report = report;
  options.calib_samples = 16;
  options.threads = 2;
  return options;
}

std::string refusal(const QuantizeOptions& options) {
  const auto chosen = choose_report(options, choose_calibration(options, {.maxima = true}).value());
  return chosen.ok() ? "" : chosen.error().message;
}

std::string story(int number) {
  std::string text = "Story " + std::to_string(number) + ".";
  for (int i = 0; i < 12; ++i)
    text += " The little dog found ball number " + std::to_string(i) + ".";
  return text;
}

TEST(ChooseReport, DefaultIsTheHeldOutText) {
  const QuantizeOptions options = demo_options(kDefaultReportText);
  const auto chosen = choose_report(options, choose_calibration(options, {.maxima = true}).value());
  ASSERT_TRUE(chosen.ok()) << chosen.error().message;
  EXPECT_EQ(chosen.value().eval.data, "models/demo/eval/heldout_generated.txt");
  EXPECT_EQ(chosen.value().eval.mode, "documents");
  EXPECT_EQ(chosen.value().base, "models/demo");
}

TEST(ChooseReport, CalibrationTextIsRefused) {
  EXPECT_NE(refusal(demo_options("models/demo/calibration.jsonl")).find("is the calibration text"),
            std::string::npos);
  // The same documents in another file, among others.
  TempFolder folder;
  QuantizeOptions options = demo_options(folder.file("report.txt"));
  options.calib = folder.file("calibration.txt");
  ASSERT_TRUE(write_file_atomic(options.calib, story(1) + "\n<|endoftext|>\n" + story(2)).ok());
  ASSERT_TRUE(write_file_atomic(options.report, story(3) + "\n<|endoftext|>\n" + story(2)).ok());
  EXPECT_NE(refusal(options).find("1 of its 2 documents begin like a calibration sample"),
            std::string::npos);
  ASSERT_TRUE(write_file_atomic(options.report, story(3) + "\n<|endoftext|>\n" + story(4)).ok());
  EXPECT_EQ(refusal(options), "");
}

TEST(ChooseReport, MissingAndShortTexts) {
  TempFolder folder;
  EXPECT_NE(refusal(demo_options(folder.file("none.txt"))).find("none.txt"), std::string::npos);
  ASSERT_TRUE(write_file_atomic(folder.file("short.txt"), "One sentence.").ok());
  EXPECT_NE(refusal(demo_options(folder.file("short.txt"))).find("short.txt"), std::string::npos);
}

TEST(MeasureQuality, AModelAgainstItselfIsZero) {
  TempFolder folder;
  QuantizeOptions options = demo_options(folder.file("report.txt"));
  ASSERT_TRUE(write_file_atomic(options.report, story(1) + "\n<|endoftext|>\n" + story(2)).ok());
  const auto chosen = choose_report(options, {});
  ASSERT_TRUE(chosen.ok()) << chosen.error().message;
  const auto measured = measure_quality(chosen.value(), options.source);
  ASSERT_TRUE(measured.ok()) << measured.error().message;
  EXPECT_EQ(measured.value().text, "2 documents of report.txt");
  EXPECT_EQ(measured.value().kld.value, 0);
  EXPECT_EQ(measured.value().same_top, 1);
  EXPECT_EQ(measured.value().perplexity.value, measured.value().base_perplexity.value);
  EXPECT_GT(measured.value().tokens, 100);
  EXPECT_FALSE(measured.value().noise.empty());
}

}  // namespace
}  // namespace nibble::cli
