// Character class of a code point by two array reads. Built once per tokenizer from unicode_tables.
#pragma once

#include "tokenizer/unicode_tables.h"

#include <array>
#include <cstdint>
#include <vector>

namespace nibble::tokenizer {

class CharClassTable {
 public:
  CharClassTable();

  /// Any code point up to U+10FFFF. Safe from any thread.
  CharClass at(uint32_t code_point) const {
    return blocks_[block_of_[code_point >> 8]][code_point & 0xFF];
  }

 private:
  using Block = std::array<CharClass, 256>;

  std::array<uint16_t, 0x1100> block_of_{};
  std::vector<Block> blocks_;  // equal blocks are stored once
};

}  // namespace nibble::tokenizer
