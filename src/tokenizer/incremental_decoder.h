// Text of a growing list of token ids, released as soon as it is certain.
//
// A character whose bytes come from several tokens is held back until it is complete; bytes that
// can no longer become a character are released as U+FFFD, one per maximal invalid part, at once.
// The pieces joined, flush() included, are exactly Tokenizer::decode() of all ids. One per
// sequence.
#pragma once

#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <string>

namespace nibble::tokenizer {

class IncrementalDecoder {
 public:
  /// The tokenizer must outlive the decoder. Skipped special tokens vanish before bytes are joined,
  /// so the halves of a character around one come together.
  IncrementalDecoder(const Tokenizer& tokenizer, SkipSpecial skip_special)
      : tokenizer_(tokenizer), skip_special_(skip_special) {}

  /// Takes one more id, returns the text that became certain (possibly none).
  std::string feed(int32_t id);

  /// The text still held back, at the end: U+FFFD or nothing. The decoder is then as new.
  std::string flush();

 private:
  const Tokenizer& tokenizer_;
  SkipSpecial skip_special_;
  std::string pending_;  // the beginning of one character, at most 3 bytes
};

}  // namespace nibble::tokenizer
