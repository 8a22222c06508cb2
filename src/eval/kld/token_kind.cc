#include "eval/kld/token_kind.h"

namespace nibble::eval {
namespace {

constexpr std::string_view kWhite = " \t\r\n\v\f";

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || static_cast<unsigned char>(c) >= 0x80;
}

}  // namespace

const char* token_kind_name(TokenKind kind) {
  switch (kind) {
    case TokenKind::word_start:
      return "word start";
    case TokenKind::word_inside:
      return "word inside";
    case TokenKind::number:
      return "number";
    case TokenKind::punctuation:
      return "punctuation";
    case TokenKind::white_space:
      return "white space";
    case TokenKind::special:
      return "special";
  }
  return "";
}

TokenKind token_kind(std::string_view bytes, std::string_view previous) {
  if (bytes.empty()) return TokenKind::special;
  const size_t first = bytes.find_first_not_of(kWhite);
  if (first == std::string_view::npos) return TokenKind::white_space;
  if (is_digit(bytes[first])) return TokenKind::number;
  if (!is_letter(bytes[first])) return TokenKind::punctuation;
  const bool after_white =
      first > 0 || previous.empty() || kWhite.find(previous.back()) != std::string_view::npos;
  return after_white ? TokenKind::word_start : TokenKind::word_inside;
}

}  // namespace nibble::eval
