// UTF-8: decoding one code point at a time, validation, replacement of invalid parts.
//
// "Invalid part" is the maximal subpart of Unicode 15, section 3.9 (U+FFFD substitution), as in
// WHATWG decoders.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace nibble {

struct Utf8Step {
  uint32_t code_point = 0;  // U+FFFD where !valid
  int length = 1;  // bytes consumed, at least 1
  bool valid = false;
  bool incomplete = false;  // !valid only because the text ends: more bytes could complete it
};

/// Decodes at text[0]; text must not be empty.
Utf8Step decode_utf8(std::string_view text);

void append_utf8(std::string& out, uint32_t code_point);

bool is_valid_utf8(std::string_view text);

/// Each invalid part becomes U+FFFD.
std::string replace_invalid_utf8(std::string_view text);

}  // namespace nibble
