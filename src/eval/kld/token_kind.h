// Kinds of tokens, for splitting a divergence: does quantization hurt words, numbers, punctuation?
#pragma once

#include <string_view>

namespace nibble::eval {

enum class TokenKind { word_start, word_inside, number, punctuation, white_space, special };
inline constexpr int kTokenKinds = 6;

const char* token_kind_name(TokenKind kind);

/// By the first character behind leading white space: digit, letter (any byte above ASCII counts),
/// else punctuation. A word starts behind white space, of its own or at the end of `previous` (the
/// bytes of the token before; empty: the text begins).
TokenKind token_kind(std::string_view bytes, std::string_view previous);

}  // namespace nibble::eval
