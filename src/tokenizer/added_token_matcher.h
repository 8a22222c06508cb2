// Finds added tokens ("<|im_end|>", "<think>") in text: leftmost, and the longest there.
//
// Holds only the lengths that occur per first byte; the strings themselves are looked up in the
// vocabulary. Matching is exact and happens before normalization.
#pragma once

#include "tokenizer/vocabulary.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace nibble::tokenizer {

struct AddedTokenMatch {
  size_t begin = 0;
  size_t end = 0;
  int32_t id = -1;  // -1: no match, begin == end == text.size()
};

class AddedTokenMatcher {
 public:
  /// Notes every token of the vocabulary that is added. The vocabulary is passed again to find().
  explicit AddedTokenMatcher(const Vocabulary& vocabulary);

  /// First match at or after `from`. Safe from any thread.
  AddedTokenMatch find(std::string_view text, size_t from, const Vocabulary& vocabulary) const;

 private:
  std::array<std::vector<size_t>, 256> lengths_;  // by first byte, falling
};

}  // namespace nibble::tokenizer
