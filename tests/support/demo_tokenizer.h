// For tests only: the demo model's tokenizer, loaded once.
#pragma once

#include "base/check.h"
#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <vector>

namespace nibble::runtime {

inline const tokenizer::Tokenizer& test_tokenizer() {
  static const tokenizer::Tokenizer loaded = [] {
    Result<tokenizer::Tokenizer> result = tokenizer::Tokenizer::load("models/demo");
    NIBBLE_CHECK(result.ok(), "the demo tokenizer; run from the source folder",
                 result.ok() ? "" : result.error().message);
    return std::move(result).value();
  }();
  return loaded;
}

inline std::vector<int32_t> tokens_of(const char* text) {
  return test_tokenizer().encode(text, tokenizer::AddedTokens::parse);
}

}  // namespace nibble::runtime
