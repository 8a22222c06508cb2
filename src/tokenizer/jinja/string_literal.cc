// Escape sequences of string literals.
#include "tokenizer/jinja/string_literal.h"

#include "base/utf8.h"

#include <fmt/format.h>

namespace nibble::tokenizer::jinja {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// One character for a simple escape, 0 when `c` is none.
char simple_escape(char c) {
  switch (c) {
    case 'a':
      return '\a';
    case 'b':
      return '\b';
    case 'f':
      return '\f';
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'v':
      return '\v';
    case '\\':
    case '\'':
    case '"':
      return c;
    default:
      return 0;
  }
}

class EscapeReader {
 public:
  explicit EscapeReader(std::string_view body) : body_(body) {}

  LiteralResult run() {
    while (at_ < body_.size() && result_.problem.empty()) {
      const char c = body_[at_++];
      if (c != '\\' || at_ == body_.size()) {
        result_.text.push_back(c);
      } else {
        read_escape(body_[at_]);
      }
    }
    return std::move(result_);
  }

 private:
  void read_escape(char c) {
    if (const char plain = simple_escape(c); plain != 0) {
      result_.text.push_back(plain);
      ++at_;
    } else if (c == '\n') {
      ++at_;
    } else if (c >= '0' && c <= '7') {
      read_octal();
    } else if (c == 'x' || c == 'u' || c == 'U') {
      ++at_;
      read_hex(c, c == 'x' ? 2 : (c == 'u' ? 4 : 8));
    } else if (c == 'N') {
      result_.problem = "\\N escapes are not supported";
    } else if (static_cast<unsigned char>(c) >= 0x80) {
      // The reference first turns the character into an escape of its own, whose backslash this one
      // eats.
      const Utf8Step step = decode_utf8(body_.substr(at_));
      const uint32_t code = step.code_point;
      result_.text += code < 0x100     ? fmt::format("\\x{:02x}", code)
                      : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                                       : fmt::format("\\U{:08x}", code);
      at_ += static_cast<size_t>(step.length);
    } else {
      result_.text.push_back('\\');
    }
  }

  void read_octal() {
    uint32_t code = 0;
    for (int i = 0; i < 3 && at_ < body_.size() && body_[at_] >= '0' && body_[at_] <= '7'; ++i) {
      code = code * 8 + static_cast<uint32_t>(body_[at_++] - '0');
    }
    append_utf8(result_.text, code);
  }

  void read_hex(char kind, int count) {
    uint32_t code = 0;
    for (int i = 0; i < count; ++i) {
      const int digit = at_ < body_.size() ? hex_digit(body_[at_]) : -1;
      if (digit < 0) {
        result_.problem = fmt::format("truncated \\{} escape", kind);
        return;
      }
      code = code * 16 + static_cast<uint32_t>(digit);
      ++at_;
    }
    if (code > 0x10FFFF) {
      result_.problem = "illegal Unicode character";
    } else if (code >= 0xD800 && code <= 0xDFFF) {
      result_.problem = "lone surrogates in string literals are not supported";
    } else {
      append_utf8(result_.text, code);
    }
  }

  std::string_view body_;
  size_t at_ = 0;
  LiteralResult result_;
};

}  // namespace

LiteralResult resolve_escapes(std::string_view body) {
  return EscapeReader(body).run();
}

}  // namespace nibble::tokenizer::jinja
