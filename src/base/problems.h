// Problems: everything wrong with one input, gathered so that a single message can list it all.
//
// For checks of files and configurations, where a user wants the whole list and not the first line.
// Not thread-safe.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <string>
#include <vector>

namespace nibble {

class Problems {
 public:
  /// Lines kept; further ones are only counted, so that a hostile file cannot fill the memory.
  static constexpr size_t kMaxLines = 1000;

  void add(std::string text) {
    if (++count_ <= kMaxLines) lines_.push_back(std::move(text));
  }
  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }

  /// "what: the problem", or "what: N problems:" and one indented line each. Not for an empty list.
  Error error(ErrorCode code, const std::string& what) const {
    NIBBLE_CHECK(!empty(), "no problem to report");
    if (count_ == 1) return Error{code, what + ": " + lines_.front()};
    std::string text = what + ": " + std::to_string(count_) + " problems:";
    for (const std::string& line : lines_) text += "\n  " + line;
    if (count_ > lines_.size()) {
      text += "\n  ... and " + std::to_string(count_ - lines_.size()) + " more";
    }
    return Error{code, text};
  }

 private:
  std::vector<std::string> lines_;
  size_t count_ = 0;
};

}  // namespace nibble
