// The alternatives of the pattern in their order; the comments give each one's text.
#include "tokenizer/pre_tokenizer.h"

#include <fmt/format.h>

namespace nibble::tokenizer {
namespace {

constexpr uint32_t kLongS = 0x17F;  // folds to s, so (?i:'s) takes it

bool is_newline(uint32_t code_point) {
  return code_point == '\r' || code_point == '\n';
}

uint32_t ascii_lower(uint8_t byte) {
  return byte >= 'A' && byte <= 'Z' ? byte + 32U : byte;
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d) at text[0] == '\'': its length in bytes, or 0.
size_t contraction_length(std::string_view text) {
  if (text.size() < 2) return 0;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint32_t first = ascii_lower(byte(1));
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if (text.size() < 3) return 0;
  if (byte(1) == (0xC0 | (kLongS >> 6)) && byte(2) == (0x80 | (kLongS & 0x3F))) return 3;
  const uint32_t second = ascii_lower(byte(2));
  const bool two_letters =
      ((first == 'r' || first == 'v') && second == 'e') || (first == 'l' && second == 'l');
  return two_letters ? 3 : 0;
}

}  // namespace

Result<PreTokenizer> PreTokenizer::from_pattern(std::string_view pattern, const std::string& what) {
  if (pattern == kPatternMarksJoinLetters) return PreTokenizer(true);
  if (pattern == kPatternLettersOnly) return PreTokenizer(false);
  return Error{
      ErrorCode::unsupported,
      fmt::format("{}: split pattern {} is not one this program knows; known are {} and {}", what,
                  pattern, kPatternMarksJoinLetters, kPatternLettersOnly)};
}

PreTokenizer::PreTokenizer(bool marks_join_letters) {
  const auto index = [](CharClass c) { return static_cast<size_t>(c); };
  word_class_[index(CharClass::letter)] = true;
  punctuation_class_[index(CharClass::other)] = true;
  (marks_join_letters ? word_class_ : punctuation_class_)[index(CharClass::mark)] = true;
}

PreTokenizer::Char PreTokenizer::char_at(std::string_view text, size_t at) const {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(text[i])); };
  const uint32_t lead = byte(at);
  uint32_t code_point = lead;
  uint32_t length = 1;
  if (lead >= 0xF0) {
    code_point = (lead & 0x07) << 18 | (byte(at + 1) & 0x3F) << 12 | (byte(at + 2) & 0x3F) << 6 |
                 (byte(at + 3) & 0x3F);
    length = 4;
  } else if (lead >= 0xE0) {
    code_point = (lead & 0x0F) << 12 | (byte(at + 1) & 0x3F) << 6 | (byte(at + 2) & 0x3F);
    length = 3;
  } else if (lead >= 0xC0) {
    code_point = (lead & 0x1F) << 6 | (byte(at + 1) & 0x3F);
    length = 2;
  }
  return {code_point, length, classes_.at(code_point)};
}

// [\p{L}\p{M}]* (or \p{L}*) from `begin`.
size_t PreTokenizer::word_end(std::string_view text, size_t begin) const {
  size_t end = begin;
  while (end < text.size()) {
    const Char c = char_at(text, end);
    if (!is_word(c.char_class)) break;
    end += c.length;
  }
  return end;
}

// [^\s\p{L}\p{M}\p{N}]*[\r\n]* from `begin`; returns `begin` where not even one character matches
// the first class.
size_t PreTokenizer::punctuation_end(std::string_view text, size_t begin) const {
  size_t end = begin;
  while (end < text.size()) {
    const Char c = char_at(text, end);
    if (!is_punctuation(c.char_class)) break;
    end += c.length;
  }
  if (end == begin) return begin;
  while (end < text.size() && is_newline(static_cast<uint8_t>(text[end]))) ++end;
  return end;
}

// \s*[\r\n]+|\s+(?!\S)|\s+ from `begin`, a space character.
size_t PreTokenizer::space_run_end(std::string_view text, size_t begin) const {
  size_t end = begin, last_begin = begin, after_newline = 0;
  while (end < text.size()) {
    const Char c = char_at(text, end);
    if (c.char_class != CharClass::space) break;
    last_begin = end;
    end += c.length;
    if (is_newline(c.code_point)) after_newline = end;
  }
  if (after_newline != 0) return after_newline;
  // The last space of a run before a word is left to be that word's first character.
  if (end == text.size() || last_begin == begin) return end;
  return last_begin;
}

size_t PreTokenizer::piece_end(std::string_view text, size_t begin) const {
  const Char first = char_at(text, begin);
  const size_t next = begin + first.length;
  if (first.code_point == '\'') {
    const size_t length = contraction_length(text.substr(begin));
    if (length != 0) return begin + length;
  }
  // [^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+ : the optional character may itself be a mark or a space.
  if (is_word(first.char_class)) return word_end(text, next);
  if (first.char_class == CharClass::number) return next;
  if (!is_newline(first.code_point)) {
    const size_t end = word_end(text, next);
    if (end != next) return end;
  }
  //  ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*
  const size_t start = first.code_point == ' ' ? next : begin;
  const size_t end = punctuation_end(text, start);
  if (end != start) return end;
  return space_run_end(text, begin);
}

}  // namespace nibble::tokenizer
