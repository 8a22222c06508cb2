// Splits generated text into reasoning and content while it streams.
//
// Sits between the incremental decoder and the response writer. Tool calls stay text in the
// content; a tool-call parser would consume the content deltas. Rules: qwen3_5_moe.md 6.4. Not
// thread-safe; one per request.
#pragma once

#include <string>
#include <string_view>

namespace nibble::tokenizer {

/// What one piece of generated text adds to each side.
struct TextDelta {
  std::string reasoning;
  std::string content;
};

/// True when the prompt's last turn has an open <think>: generation then starts inside the
/// reasoning.
bool ends_inside_reasoning(std::string_view prompt);

class ReasoningSplitter {
 public:
  /// inside_reasoning: see ends_inside_reasoning(). Otherwise everything is content, except that a
  /// <think> at the very start opens reasoning.
  explicit ReasoningSplitter(bool inside_reasoning);

  /// Text that may still turn out to be a tag is held back until the next call.
  TextDelta feed(std::string_view text);

  /// The held text; nothing may be fed afterwards. Reasoning that never ended stays reasoning.
  TextDelta finish();

  bool is_reasoning() const { return state_ == State::opening || state_ == State::reasoning; }

 private:
  enum class State {
    opening,  // inside reasoning, an own <think> of the model may still come
    content_opening,  // outside, a <think> may still come
    reasoning,
    content_start,  // after </think>: newlines are dropped
    content,
  };
  enum class Match { no, partly, yes };

  void run(TextDelta& delta);
  bool step_opening(TextDelta& delta);
  bool step_reasoning(TextDelta& delta);
  bool step_content(TextDelta& delta);
  static Match match_tag(std::string_view text, std::string_view tag);
  static Match match_tool_call(std::string_view text);

  State state_;
  std::string held_;
};

}  // namespace nibble::tokenizer
