// Cuts text into the pieces inside which BPE merges: the Split pattern of the Qwen family, as a
// state machine.
//
// Two patterns are known, and recognised by their exact text; nothing interprets regular
// expressions here. A new pattern needs a new branch and its own comparison with the reference.
#pragma once

#include "base/result.h"
#include "tokenizer/char_class_table.h"

#include <cstddef>
#include <string>
#include <string_view>

namespace nibble::tokenizer {

/// Qwen3.5 and later: combining marks belong to words.
inline constexpr std::string_view kPatternMarksJoinLetters =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Qwen2 and Qwen3: combining marks count as punctuation.
inline constexpr std::string_view kPatternLettersOnly =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

class PreTokenizer {
 public:
  /// `what` names the source in the error for a pattern that is neither of the two.
  static Result<PreTokenizer> from_pattern(std::string_view pattern, const std::string& what);

  /// End (byte offset) of the piece that starts at `begin` < text.size(). text: valid UTF-8, begin
  /// at a character. Every character belongs to exactly one piece. Safe from any thread.
  size_t piece_end(std::string_view text, size_t begin) const;

 private:
  struct Char {
    uint32_t code_point;
    uint32_t length;  // bytes
    CharClass char_class;
  };

  explicit PreTokenizer(bool marks_join_letters);

  Char char_at(std::string_view text, size_t at) const;
  size_t space_run_end(std::string_view text, size_t begin) const;
  size_t word_end(std::string_view text, size_t begin) const;
  size_t punctuation_end(std::string_view text, size_t begin) const;
  bool is_word(CharClass c) const { return word_class_[static_cast<size_t>(c)]; }
  bool is_punctuation(CharClass c) const { return punctuation_class_[static_cast<size_t>(c)]; }

  CharClassTable classes_;
  bool word_class_[5] = {};
  bool punctuation_class_[5] = {};
};

}  // namespace nibble::tokenizer
