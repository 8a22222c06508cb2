// One table access per byte of text; hash lookups only where a first byte fits.
#include "tokenizer/added_token_matcher.h"

#include <algorithm>
#include <functional>

namespace nibble::tokenizer {

AddedTokenMatcher::AddedTokenMatcher(const Vocabulary& vocabulary) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    if (!vocabulary.kind(id).is_added) continue;
    const std::string_view bytes = vocabulary.bytes(id);
    lengths_[static_cast<uint8_t>(bytes[0])].push_back(bytes.size());
  }
  for (auto& lengths : lengths_) {
    std::sort(lengths.begin(), lengths.end(), std::greater<>());
    lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
  }
}

AddedTokenMatch AddedTokenMatcher::find(std::string_view text, size_t from,
                                        const Vocabulary& vocabulary) const {
  for (size_t at = from; at < text.size(); ++at) {
    for (const size_t length : lengths_[static_cast<uint8_t>(text[at])]) {
      if (length > text.size() - at) continue;
      const auto id = vocabulary.find(text.substr(at, length));
      if (id && vocabulary.kind(*id).is_added) return {at, at + length, *id};
    }
  }
  return {text.size(), text.size(), -1};
}

}  // namespace nibble::tokenizer
