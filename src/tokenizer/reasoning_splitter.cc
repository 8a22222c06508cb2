// The state machine that finds the end of the reasoning.
#include "tokenizer/reasoning_splitter.h"

#include <algorithm>

namespace nibble::tokenizer {
namespace {

constexpr std::string_view kOpen = "<think>";
constexpr std::string_view kClose = "</think>";
constexpr std::string_view kToolCall = "<tool_call>";
constexpr std::string_view kFunction = "<function";
constexpr std::string_view kTurn = "<|im_start|>";
constexpr std::string_view kBlanks = " \t\r\n";

// Blanks between <tool_call> and <function that are waited for; more is no call.
constexpr size_t kMaxHeldBlanks = 64;

}  // namespace

bool ends_inside_reasoning(std::string_view prompt) {
  const size_t turn = prompt.rfind(kTurn);
  if (turn == std::string_view::npos) {
    // Unknown turn markers: only a tag at the very end is sure.
    const size_t end = prompt.find_last_not_of(kBlanks);
    return end != std::string_view::npos && prompt.substr(0, end + 1).ends_with(kOpen);
  }
  const std::string_view last_turn = prompt.substr(turn);
  const size_t open = last_turn.rfind(kOpen);
  const size_t close = last_turn.rfind(kClose);
  return open != std::string_view::npos && (close == std::string_view::npos || close < open);
}

ReasoningSplitter::ReasoningSplitter(bool inside_reasoning)
    : state_(inside_reasoning ? State::opening : State::content_opening) {}

TextDelta ReasoningSplitter::feed(std::string_view text) {
  TextDelta delta;
  held_ += text;
  run(delta);
  return delta;
}

TextDelta ReasoningSplitter::finish() {
  TextDelta delta;
  // A <think> that nothing followed was going to be dropped.
  const bool is_open = state_ == State::opening || state_ == State::content_opening;
  const size_t start = std::min(held_.find_first_not_of(kBlanks), held_.size());
  if (is_open && match_tag(std::string_view(held_).substr(start), kOpen) == Match::yes) {
    held_.clear();
  }
  (is_reasoning() ? delta.reasoning : delta.content) += held_;
  held_.clear();
  return delta;
}

void ReasoningSplitter::run(TextDelta& delta) {
  bool goes_on = true;
  while (goes_on && !held_.empty()) {
    switch (state_) {
      case State::opening:
      case State::content_opening:
        goes_on = step_opening(delta);
        break;
      case State::reasoning:
        goes_on = step_reasoning(delta);
        break;
      case State::content_start:
      case State::content:
        goes_on = step_content(delta);
        break;
    }
  }
}

// An optional <think> of the model's own, blanks around it: dropped together.
bool ReasoningSplitter::step_opening(TextDelta&) {
  const size_t start = std::min(held_.find_first_not_of(kBlanks), held_.size());
  const Match match = match_tag(std::string_view(held_).substr(start), kOpen);
  if (match == Match::partly) return false;
  if (match == Match::no) {
    state_ = state_ == State::opening ? State::reasoning : State::content;
    return true;
  }
  const size_t end = held_.find_first_not_of("\r\n", start + kOpen.size());
  if (end == std::string::npos) {
    // The newlines after the tag may go on in the next piece.
    held_.erase(start + kOpen.size());
    return false;
  }
  held_.erase(0, end);
  state_ = State::reasoning;
  return true;
}

bool ReasoningSplitter::step_reasoning(TextDelta& delta) {
  const size_t tag = std::min(held_.find('<'), held_.size());
  delta.reasoning += held_.substr(0, tag);
  held_.erase(0, tag);
  if (held_.empty()) return false;
  const Match close = match_tag(held_, kClose);
  if (close == Match::yes) {
    held_.erase(0, kClose.size());
    state_ = State::content_start;
    return true;
  }
  const Match call = match_tool_call(held_);
  if (call == Match::yes) {
    state_ = State::content;
    return true;
  }
  if (close == Match::partly || call == Match::partly) return false;
  delta.reasoning += held_[0];
  held_.erase(0, 1);
  return true;
}

bool ReasoningSplitter::step_content(TextDelta& delta) {
  if (state_ == State::content_start) {
    held_.erase(0, std::min(held_.find_first_not_of("\r\n"), held_.size()));
    if (held_.empty()) return false;
    state_ = State::content;
  }
  delta.content += held_;
  held_.clear();
  return false;
}

ReasoningSplitter::Match ReasoningSplitter::match_tag(std::string_view text, std::string_view tag) {
  if (text.starts_with(tag)) return Match::yes;
  return tag.starts_with(text) ? Match::partly : Match::no;
}

// A call opened inside the reasoning ends it, but a mere mention of the tag does not: what counts
// is whether
// "<function" and '=' or a blank follow.
ReasoningSplitter::Match ReasoningSplitter::match_tool_call(std::string_view text) {
  const Match tag = match_tag(text, kToolCall);
  if (tag != Match::yes) return tag;
  text.remove_prefix(kToolCall.size());
  const size_t blanks = std::min(text.find_first_not_of(kBlanks), text.size());
  if (blanks > kMaxHeldBlanks) return Match::no;
  text.remove_prefix(blanks);
  const Match function = match_tag(text, kFunction);
  if (function != Match::yes) return function;
  text.remove_prefix(kFunction.size());
  if (text.empty()) return Match::partly;
  return text[0] == '=' || kBlanks.find(text[0]) != std::string_view::npos ? Match::yes : Match::no;
}

}  // namespace nibble::tokenizer
