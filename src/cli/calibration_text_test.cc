// Tests for calibration text with the demo model's tokenizer and chat template: every record form,
// limits, and the line number of what is wrong.
#include "cli/calibration_text.h"

#include "base/file.h"
#include "tests/support/temp_folder.h"
#include "tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble::cli {
namespace {

constexpr const char* kDemo = "models/demo";
using tokenizer::AddedTokens;

class CalibrationTextTest : public ::testing::Test {
 protected:
  Result<CalibrationText> read(const std::string& name, const std::string& text,
                               size_t max_sequences = 100, size_t max_tokens = 1000) {
    const std::string path = folder_.file(name);
    EXPECT_TRUE(write_file_atomic(path, text).ok());
    return read_calibration_text(path, kDemo, max_sequences, max_tokens);
  }
  std::vector<std::string> texts(const std::string& name, const std::string& text) {
    const auto found = read(name, text);
    EXPECT_TRUE(found.ok()) << (found.ok() ? "" : found.error().message);
    std::vector<std::string> out;
    if (!found.ok()) return out;
    for (const auto& ids : found.value().sequences) {
      out.push_back(tokenizer_.decode(ids, tokenizer::SkipSpecial::no));
    }
    return out;
  }
  std::string error(const std::string& name, const std::string& text) {
    const auto found = read(name, text);
    if (found.ok()) return "";
    EXPECT_EQ(found.error().code, ErrorCode::invalid_argument);
    return found.error().message;
  }

  TempFolder folder_;
  tokenizer::Tokenizer tokenizer_ = tokenizer::Tokenizer::load(kDemo).value();
};

TEST_F(CalibrationTextTest, TextAndArticle) {
  EXPECT_EQ(
      texts("a.jsonl", "{\"text\": \"one day\"}\n\n{\"article\": \"two\\nlines\", \"id\": 3}"),
      (std::vector<std::string>{"one day", "two\nlines"}));
}

TEST_F(CalibrationTextTest, MessagesAreRenderedWhole) {
  const std::string record =
      R"({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", )"
      R"("reasoning_content": "A greeting.", "content": "Hello!"}], "thinking": true})";
  const auto rendered = texts("a.jsonl", record);
  ASSERT_EQ(rendered.size(), 1u);
  EXPECT_EQ(rendered[0],
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nA greeting.\n"
            "</think>\n\nHello!<|im_end|>\n");
}

TEST_F(CalibrationTextTest, ToolsReachTheTemplate) {
  const std::string record =
      R"({"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", )"
      R"("function": {"name": "order_food", "parameters": {"type": "object"}}}]})";
  const auto rendered = texts("a.jsonl", record);
  ASSERT_EQ(rendered.size(), 1u);
  EXPECT_NE(rendered[0].find("order_food"), std::string::npos) << rendered[0];
}

// The figure stands in models/demo/README.md: the reference implementation's own count.
TEST_F(CalibrationTextTest, DemoSamplesHaveTheKnownNumberOfTokens) {
  const auto all = read_calibration_text("models/demo/calibration.jsonl", kDemo, 1000, 100'000);
  ASSERT_TRUE(all.ok()) << all.error().message;
  EXPECT_EQ(all.value().sequences.size(), 256u);
  size_t tokens = 0;
  for (const auto& ids : all.value().sequences) tokens += ids.size();
  EXPECT_EQ(tokens, 70835u);
  EXPECT_EQ(all.value().shortened, 0);
}

TEST_F(CalibrationTextTest, Limits) {
  const auto found = read("a.jsonl",
                          "{\"text\": \"one two three four five six seven\"}\n{\"text\": \"a\"}\n"
                          "not read any more\n",
                          2, 3);
  ASSERT_TRUE(found.ok()) << found.error().message;
  ASSERT_EQ(found.value().sequences.size(), 2u);
  EXPECT_EQ(found.value().sequences[0].size(), 3u);
  EXPECT_EQ(found.value().sequences[1].size(), 1u);
  EXPECT_EQ(found.value().shortened, 1);
}

TEST_F(CalibrationTextTest, PlainTextDocuments) {
  EXPECT_EQ(texts("a.txt", "one\nday\n<|endoftext|>\ntwo\n"),
            (std::vector<std::string>{"one\nday", "two"}));
}

TEST_F(CalibrationTextTest, PlainTextWithoutDocumentsIsCutIntoPieces) {
  const std::string text = "one two three four five six seven eight";
  const auto ids = tokenizer_.encode(text, AddedTokens::parse);
  const auto found = read("a.txt", text, 2, 3);
  ASSERT_TRUE(found.ok());
  ASSERT_EQ(found.value().sequences.size(), 2u);
  EXPECT_EQ(found.value().sequences[1], std::vector<int32_t>(ids.begin() + 3, ids.begin() + 6));
}

TEST_F(CalibrationTextTest, BadRecordsAreNamedByLine) {
  const std::string good = "{\"text\": \"a\"}\n";
  EXPECT_NE(error("a.jsonl", good + good + "{\"text\": ").find("a.jsonl: line 3"),
            std::string::npos);
  for (const char* bad :
       {"[1]", "{\"content\": \"a\"}", "{\"text\": 5}", "{\"text\": \"\"}", "{\"messages\": []}",
        "{\"messages\": \"hi\"}", "{\"messages\": [{\"role\": \"king\", \"content\": \"a\"}]}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"tools\": {}}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"thinking\": \"yes\"}"}) {
    const std::string message = error("a.jsonl", good + "\n" + bad + "\n");
    EXPECT_NE(message.find("a.jsonl: line 3: "), std::string::npos) << bad << ": " << message;
  }
}

TEST_F(CalibrationTextTest, OtherFilesAreRefused) {
  EXPECT_NE(error("a.csv", "x").find(".jsonl or .txt"), std::string::npos);
  EXPECT_NE(error("a.jsonl", "\n \n").find("no calibration samples"), std::string::npos);
  EXPECT_NE(error("a.txt", "  \n").find("no calibration samples"), std::string::npos);
}

}  // namespace
}  // namespace nibble::cli
