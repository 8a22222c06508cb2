// Code points, character classes, stripping and splitting of Python strings.
#include "tokenizer/jinja/text.h"

#include "base/utf8.h"

#include <utf8proc.h>

#include <algorithm>

namespace nibble::tokenizer::jinja {
namespace {

int category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

// Letters with a numeric value (Unihan numerals), sorted: numeric for Python although their
// category is Lo.
constexpr char32_t kNumericLetters[] = {
    0x3405,  0x3483,  0x382A,  0x3B4D,  0x4E00,  0x4E03,  0x4E07,  0x4E09,  0x4E5D,
    0x4E8C,  0x4E94,  0x4E96,  0x4EBF,  0x4EC0,  0x4EDF,  0x4EE8,  0x4F0D,  0x4F70,
    0x5104,  0x5146,  0x5169,  0x516B,  0x516D,  0x5341,  0x5343,  0x5344,  0x5345,
    0x534C,  0x53C1,  0x53C2,  0x53C3,  0x53C4,  0x56DB,  0x58F1,  0x58F9,  0x5E7A,
    0x5EFE,  0x5EFF,  0x5F0C,  0x5F0D,  0x5F0E,  0x5F10,  0x62FE,  0x634C,  0x67D2,
    0x6F06,  0x7396,  0x767E,  0x8086,  0x842C,  0x8CAE,  0x8CB3,  0x8D30,  0x9621,
    0x9646,  0x964C,  0x9678,  0x96F6,  0xF96B,  0xF973,  0xF978,  0xF9B2,  0xF9D1,
    0xF9D3,  0xF9FD,  0x20001, 0x20064, 0x200E2, 0x20121, 0x2092A, 0x20983, 0x2098C,
    0x2099C, 0x20AEA, 0x20AFD, 0x20B19, 0x22390, 0x22998, 0x23B1B, 0x2626D, 0x2F890,
};

// Line boundaries of str.splitlines.
bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

char32_t last_code_point(std::string_view text, size_t& length) {
  size_t start = text.size() - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  length = text.size() - start;
  return decode_utf8(text.substr(start)).code_point;
}

}  // namespace

std::u32string decode_text(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const auto byte = static_cast<unsigned char>(text[0]);
    if (byte < 0x80) {
      out.push_back(byte);
      text.remove_prefix(1);
      continue;
    }
    const Utf8Step step = decode_utf8(text);
    out.push_back(step.code_point);
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return out;
}

std::string encode_text(std::u32string_view code_points) {
  std::string out;
  out.reserve(code_points.size());
  for (const char32_t c : code_points) append_utf8(out, c);
  return out;
}

std::string encode_text(char32_t code_point) {
  std::string out;
  append_utf8(out, code_point);
  return out;
}

size_t text_length(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t offset = 0;
  while (offset < text.size()) {
    if ((static_cast<unsigned char>(text[offset]) & 0xC0) != 0x80) {
      if (index == 0) return offset;
      --index;
    }
    ++offset;
  }
  return text.size();
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_alpha(char32_t c) {
  const int found = category(c);
  return found == UTF8PROC_CATEGORY_LU || found == UTF8PROC_CATEGORY_LL ||
         found == UTF8PROC_CATEGORY_LT || found == UTF8PROC_CATEGORY_LM ||
         found == UTF8PROC_CATEGORY_LO;
}

bool is_decimal(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}

bool is_digit(char32_t c) {
  // Numeric_Type=Digit without decimal value: superscripts, subscripts and circled or full-stop
  // digits.
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468) || (c >= 0x2474 && c <= 0x247C) ||
         (c >= 0x2488 && c <= 0x2490) || c == 0x24EA || (c >= 0x24F5 && c <= 0x24FD) ||
         c == 0x24FF || (c >= 0x2776 && c <= 0x277E) || (c >= 0x2780 && c <= 0x2788) ||
         (c >= 0x278A && c <= 0x2792) || (c >= 0x1369 && c <= 0x1371) || c == 0x19DA ||
         (c >= 0x10A40 && c <= 0x10A43) || (c >= 0x10E60 && c <= 0x10E68) ||
         (c >= 0x11052 && c <= 0x1105A) || (c >= 0x1F100 && c <= 0x1F10A);
}

bool is_numeric(char32_t c) {
  const int found = category(c);
  return found == UTF8PROC_CATEGORY_ND || found == UTF8PROC_CATEGORY_NL ||
         found == UTF8PROC_CATEGORY_NO || is_digit(c) ||
         std::binary_search(std::begin(kNumericLetters), std::end(kNumericLetters), c);
}

bool is_upper(char32_t c) {
  // Other_Uppercase: Roman numerals and circled or squared capital letters.
  return category(c) == UTF8PROC_CATEGORY_LU || (c >= 0x2160 && c <= 0x216F) ||
         (c >= 0x24B6 && c <= 0x24CF) || (c >= 0x1F130 && c <= 0x1F149) ||
         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
}

bool is_lower(char32_t c) {
  // Other_Lowercase: ordinal indicators, modifier letters, small Roman numerals, circled small
  // letters.
  return category(c) == UTF8PROC_CATEGORY_LL || c == 0xAA || c == 0xBA ||
         (c >= 0x2B0 && c <= 0x2B8) || c == 0x2C0 || c == 0x2C1 || (c >= 0x2E0 && c <= 0x2E4) ||
         c == 0x345 || c == 0x37A || (c >= 0x1D2C && c <= 0x1D6A) || c == 0x1D78 ||
         (c >= 0x1D9B && c <= 0x1DBF) || c == 0x2071 || c == 0x207F ||
         (c >= 0x2090 && c <= 0x209C) || (c >= 0x2170 && c <= 0x217F) ||
         (c >= 0x24D0 && c <= 0x24E9) || c == 0x2C7C || c == 0x2C7D || c == 0xA69C || c == 0xA69D ||
         c == 0xA770 || c == 0xA7F8 || c == 0xA7F9 || (c >= 0xAB5C && c <= 0xAB5F) ||
         (c >= 0x10780 && c <= 0x107BA && is_alpha(c));
}

bool is_title(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_LT;
}

bool is_identifier_start(char32_t c) {
  return c == '_' || is_alpha(c) || category(c) == UTF8PROC_CATEGORY_NL;
}

bool is_identifier_part(char32_t c) {
  const int found = category(c);
  return is_identifier_start(c) || found == UTF8PROC_CATEGORY_ND || found == UTF8PROC_CATEGORY_MN ||
         found == UTF8PROC_CATEGORY_MC || found == UTF8PROC_CATEGORY_PC;
}

std::string_view strip(std::string_view text, Side side,
                       std::optional<std::string_view> characters) {
  const std::u32string set = characters ? decode_text(*characters) : std::u32string();
  const auto strips = [&](char32_t c) {
    return characters ? set.find(c) != std::u32string::npos : is_space(c);
  };
  while (side != Side::right && !text.empty()) {
    const Utf8Step step = decode_utf8(text);
    if (!strips(step.code_point)) break;
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  while (side != Side::left && !text.empty()) {
    size_t length = 0;
    if (!strips(last_code_point(text, length))) break;
    text.remove_suffix(length);
  }
  return text;
}

std::vector<std::string_view> split_space(std::string_view text, int64_t maximum) {
  std::vector<std::string_view> out;
  text = strip(text, Side::left);
  while (!text.empty()) {
    if (maximum >= 0 && static_cast<int64_t>(out.size()) == maximum) {
      out.push_back(text);  // with its trailing blanks
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Step step = decode_utf8(text.substr(end));
      if (is_space(step.code_point)) break;
      end += static_cast<size_t>(step.length);
    }
    out.push_back(text.substr(0, end));
    text = strip(text.substr(end), Side::left);
  }
  return out;
}

std::vector<std::string_view> split_space_right(std::string_view text, int64_t maximum) {
  std::vector<std::string_view> out;
  text = strip(text, Side::right);
  while (!text.empty()) {
    if (maximum >= 0 && static_cast<int64_t>(out.size()) == maximum) {
      out.push_back(text);  // with its leading blanks
      break;
    }
    size_t start = text.size();
    while (start > 0) {
      size_t length = 0;
      if (is_space(last_code_point(text.substr(0, start), length))) break;
      start -= length;
    }
    out.push_back(text.substr(start));
    text = strip(text.substr(0, start), Side::right);
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator,
                                    int64_t maximum) {
  std::vector<std::string_view> out;
  size_t start = 0;
  while (maximum < 0 || static_cast<int64_t>(out.size()) < maximum) {
    const size_t found = text.find(separator, start);
    if (found == std::string_view::npos) break;
    out.push_back(text.substr(start, found - start));
    start = found + separator.size();
  }
  out.push_back(text.substr(start));
  return out;
}

std::vector<std::string_view> split_right(std::string_view text, std::string_view separator,
                                          int64_t maximum) {
  std::vector<std::string_view> out;
  size_t end = text.size();
  while (maximum < 0 || static_cast<int64_t>(out.size()) < maximum) {
    if (end < separator.size()) break;
    const size_t found = text.rfind(separator, end - separator.size());
    if (found == std::string_view::npos) break;
    out.push_back(text.substr(found + separator.size(), end - found - separator.size()));
    end = found;
  }
  out.push_back(text.substr(0, end));
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  size_t start = 0;
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Step step = decode_utf8(text.substr(at));
    const size_t line_end = at;
    at += static_cast<size_t>(step.length);
    if (!is_line_end(step.code_point)) continue;
    if (step.code_point == '\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(start, (keep_ends ? at : line_end) - start));
    start = at;
  }
  if (start < text.size()) out.push_back(text.substr(start));
  return out;
}

size_t count_occurrences(std::string_view text, std::string_view needle) {
  if (needle.empty()) return text_length(text) + 1;
  size_t count = 0;
  for (size_t at = text.find(needle); at != std::string_view::npos;
       at = text.find(needle, at + needle.size())) {
    ++count;
  }
  return count;
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to,
                        int64_t count) {
  std::string out;
  size_t at = 0;
  if (from.empty()) {
    // Python inserts `to` before every code point and at the end.
    int64_t done = 0;
    while (count < 0 || done < count) {
      out += to;
      ++done;
      if (at == text.size()) return out;
      const auto length = static_cast<size_t>(decode_utf8(text.substr(at)).length);
      out += text.substr(at, length);
      at += length;
    }
    return out += text.substr(at);
  }
  for (int64_t done = 0; count < 0 || done < count; ++done) {
    const size_t found = text.find(from, at);
    if (found == std::string_view::npos) break;
    out += text.substr(at, found - at);
    out += to;
    at = found + from.size();
  }
  return out += text.substr(at);
}

}  // namespace nibble::tokenizer::jinja
