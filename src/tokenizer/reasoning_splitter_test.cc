// Tests of the reasoning splitter: every text is fed whole, and byte by byte, with equal results.
#include "tokenizer/reasoning_splitter.h"

#include <gtest/gtest.h>

namespace nibble::tokenizer {
namespace {

TextDelta split_in_pieces(bool inside, std::string_view text, size_t piece) {
  ReasoningSplitter splitter(inside);
  TextDelta total;
  const auto add = [&](const TextDelta& delta) {
    total.reasoning += delta.reasoning;
    total.content += delta.content;
  };
  for (size_t at = 0; at < text.size(); at += piece) add(splitter.feed(text.substr(at, piece)));
  add(splitter.finish());
  return total;
}

void expect_split(bool inside, const std::string& text, const std::string& reasoning,
                  const std::string& content) {
  for (const size_t piece : {size_t{1}, size_t{2}, size_t{3}, size_t{7}, text.size() + 1}) {
    const TextDelta found = split_in_pieces(inside, text, piece);
    EXPECT_EQ(found.reasoning, reasoning) << text << " in pieces of " << piece;
    EXPECT_EQ(found.content, content) << text << " in pieces of " << piece;
  }
}

TEST(ReasoningSplitter, EndsAtTheFirstClosingTag) {
  expect_split(true, "why\n</think>\n\nbecause", "why\n", "because");
  expect_split(true, "a</think>b</think>c", "a", "b</think>c");
  expect_split(true, "</think>x", "", "x");
}

TEST(ReasoningSplitter, WithoutClosingTagAllIsReasoning) {
  expect_split(true, "cut off </thi", "cut off </thi", "");
  expect_split(true, "a < b <", "a < b <", "");
}

TEST(ReasoningSplitter, DropsTheModelsOwnOpeningTag) {
  expect_split(true, "<think>\nwhy</think>x", "why", "x");
  expect_split(true, "\n<think>\n\nwhy</think>x", "why", "x");
  expect_split(true, "<think>", "", "");
  expect_split(false, "<think>\nwhy</think>\n\nx", "why", "x");
}

TEST(ReasoningSplitter, OutsideAllIsContent) {
  expect_split(false, "plain </think> text", "", "plain </think> text");
  expect_split(false, "\n\nkept", "", "\n\nkept");
  expect_split(false, "a <think> b", "", "a <think> b");
  expect_split(false, "", "", "");
}

TEST(ReasoningSplitter, AToolCallEndsTheReasoning) {
  expect_split(true, "r\n<tool_call>\n<function=f>\n</function>\n</tool_call>", "r\n",
               "<tool_call>\n<function=f>\n</function>\n</tool_call>");
  expect_split(true, "r<tool_call> <function name", "r", "<tool_call> <function name");
}

TEST(ReasoningSplitter, AMentionOfTheTagDoesNot) {
  expect_split(true, "use <tool_call> then</think>x", "use <tool_call> then", "x");
  expect_split(true, "<tool_call>\n<functional></think>x", "<tool_call>\n<functional>", "x");
  expect_split(true, "r<tool_call>\n", "r<tool_call>\n", "");
}

TEST(ReasoningSplitter, ReleasesTextAtOnceWhereNothingIsOpen) {
  ReasoningSplitter splitter(true);
  EXPECT_EQ(splitter.feed("one").reasoning, "one");
  EXPECT_EQ(splitter.feed(" two <").reasoning, " two ");
  EXPECT_EQ(splitter.feed("3").reasoning, "<3");
  EXPECT_TRUE(splitter.is_reasoning());
  EXPECT_EQ(splitter.feed("</think>").reasoning, "");
  EXPECT_FALSE(splitter.is_reasoning());
  EXPECT_EQ(splitter.feed("\n\n").content, "");
  EXPECT_EQ(splitter.feed("four\n").content, "four\n");
}

TEST(EndsInsideReasoning, LooksAtTheLastTurn) {
  EXPECT_TRUE(
      ends_inside_reasoning("<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n<think>\n"));
  EXPECT_FALSE(ends_inside_reasoning("<|im_start|>assistant\n<think>\n\n</think>\n\n"));
  EXPECT_TRUE(ends_inside_reasoning("<|im_start|>assistant\n<think>\nso far"));
  EXPECT_FALSE(
      ends_inside_reasoning("<|im_start|>user\n<think><|im_end|>\n<|im_start|>assistant\n"));
  EXPECT_TRUE(ends_inside_reasoning("A: <think>\n"));
  EXPECT_FALSE(ends_inside_reasoning("say <think> to A:"));
  EXPECT_FALSE(ends_inside_reasoning(""));
}

}  // namespace
}  // namespace nibble::tokenizer
