// Spreads the class ranges over 256-entry blocks.
#include "tokenizer/char_class_table.h"

#include <algorithm>

namespace nibble::tokenizer {

CharClassTable::CharClassTable() {
  const auto ranges = char_class_ranges();
  size_t range = 0;
  for (uint32_t index = 0; index < block_of_.size(); ++index) {
    Block block{};
    const uint32_t begin = index << 8;
    const uint32_t end = begin + 256;
    while (range < ranges.size() && ranges[range].last < begin) ++range;
    for (size_t r = range; r < ranges.size() && ranges[r].first < end; ++r) {
      const uint32_t first = std::max(ranges[r].first, begin);
      const uint32_t last = std::min(ranges[r].last, end - 1);
      for (uint32_t c = first; c <= last; ++c) block[c - begin] = ranges[r].char_class;
    }
    const auto found = std::find(blocks_.begin(), blocks_.end(), block);
    block_of_[index] = static_cast<uint16_t>(found - blocks_.begin());
    if (found == blocks_.end()) blocks_.push_back(block);
  }
}

}  // namespace nibble::tokenizer
