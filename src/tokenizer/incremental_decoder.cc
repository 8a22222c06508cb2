// decode_utf8 tells "cut off" from "invalid"; one case is held back longer than it must be.
#include "tokenizer/incremental_decoder.h"

#include "base/utf8.h"

#include <string_view>

namespace nibble::tokenizer {
namespace {

// The first two bytes of an encoded surrogate: already invalid, but the reference (CPython's
// incremental decoder) releases them only with the next byte, and so do we.
bool is_half_surrogate(std::string_view text) {
  return text.size() == 2 && text[0] == '\xED' && static_cast<uint8_t>(text[1]) >= 0xA0 &&
         static_cast<uint8_t>(text[1]) <= 0xBF;
}

}  // namespace

std::string IncrementalDecoder::feed(int32_t id) {
  if (skip_special_ == SkipSpecial::yes && tokenizer_.is_special(id)) return {};
  pending_ += tokenizer_.token_bytes(id);
  std::string_view rest = pending_;
  std::string released;
  while (!rest.empty()) {
    const Utf8Step step = decode_utf8(rest);
    if (step.incomplete || is_half_surrogate(rest)) break;
    append_utf8(released, step.code_point);
    rest.remove_prefix(static_cast<size_t>(step.length));
  }
  pending_ = std::string(rest);
  return released;
}

std::string IncrementalDecoder::flush() {
  std::string released = replace_invalid_utf8(pending_);
  pending_.clear();
  return released;
}

}  // namespace nibble::tokenizer
