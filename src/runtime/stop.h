// Stop strings in a growing text: releases what cannot be part of a match, finds the first match.
//
// The result does not depend on how the text is cut into pieces: the match that ends first wins,
// among those the longest. Knows text only; tokens and min_tokens: output_text.h.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::runtime {

enum class IncludeStop { no, yes };

class StopStrings {
 public:
  /// None may be empty.
  StopStrings(std::vector<std::string> strings, IncludeStop include);

  /// Appends `text` and releases to `out` all that no match can need any more. Returns the matched
  /// string, or null. On a match the text before it (with the match if asked for) is released and
  /// the rest dropped; nothing may be fed afterwards.
  const std::string* feed(std::string_view text, std::string& out);

  /// The same for text that must not stop: matches that end in it are passed over.
  void feed_unmatched(std::string_view text, std::string& out);

  /// Releases what is held back; the end of the text.
  void flush(std::string& out);

 private:
  void release_certain(std::string& out);
  size_t held_suffix() const;

  std::vector<std::string> strings_;
  IncludeStop include_;
  size_t longest_ = 0;
  std::string pending_;  // not yet released
};

}  // namespace nibble::runtime
