#include "eval/wikitext.h"

#include "base/utf8.h"

#include <algorithm>
#include <array>
#include <utility>

namespace nibble::eval {
namespace {

bool is_white(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

// Bytes of the white space character that `text` starts with, or 0.
size_t leading_white(std::string_view text) {
  if (text.empty()) return 0;
  const Utf8Step step = decode_utf8(text);
  return step.valid && is_white(step.code_point) ? static_cast<size_t>(step.length) : 0;
}

std::string_view trimmed(std::string_view text) {
  for (size_t n = leading_white(text); n > 0; n = leading_white(text)) text.remove_prefix(n);
  while (!text.empty()) {
    size_t start = text.size() - 1;
    while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    if (leading_white(text.substr(start)) != text.size() - start) break;
    text = text.substr(0, start);
  }
  return text;
}

// " = Title = ", not " = = Section = = ".
bool is_article_heading(std::string_view line) {
  line = trimmed(line);
  return line.size() > 4 && line.starts_with("= ") && line.ends_with(" =") &&
         !line.starts_with("= =") && !line.ends_with("= =");
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  size_t begin = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, begin)) {
    out.append(text, begin, at - begin);
    out += to;
    begin = at + from.size();
  }
  out.append(text, begin);
  text = std::move(out);
}

// White space just inside each pair is removed; a pair ends at the first `close`.
void tighten_pairs(std::string& text, char open, char close) {
  std::string out;
  size_t begin = 0;
  while (true) {
    const size_t first = text.find(open, begin);
    const size_t last = first == std::string::npos ? first : text.find(close, first + 1);
    if (last == std::string::npos) break;
    out.append(text, begin, first + 1 - begin);
    out += trimmed(std::string_view(text).substr(first + 1, last - first - 1));
    out += close;
    begin = last + 1;
  }
  out.append(text, begin);
  text = std::move(out);
}

using Replacement = std::pair<std::string_view, std::string_view>;

constexpr std::array kBeforePairs = std::to_array<Replacement>({
    {"s '", "s'"},
    {" @-@ ", "-"},
    {" @,@ ", ","},
    {" @.@ ", "."},
    {" : ", ": "},
    {" ; ", "; "},
    {" . ", ". "},
    {" ! ", "! "},
    {" ? ", "? "},
    {" , ", ", "},
});

constexpr std::array kAfterPairs = std::to_array<Replacement>({
    {"= = = =", "===="},
    {"= = =", "==="},
    {"= =", "=="},
    {" \xC2\xB0 ", "\xC2\xB0"},
    {" \n", "\n"},
    {"\n ", "\n"},
    {" N ", " 1 "},
    {" 's", "'s"},
});

}  // namespace

std::vector<std::string> split_articles(std::string_view text) {
  std::vector<std::string> articles;
  std::string current;
  const auto flush = [&] {
    if (!trimmed(current).empty()) articles.push_back(std::move(current));
    current.clear();
  };
  while (!text.empty()) {
    const size_t length = std::min(text.find('\n'), text.size() - 1) + 1;
    const std::string_view line = text.substr(0, length);
    if (is_article_heading(line)) flush();
    current += line;
    text.remove_prefix(length);
  }
  flush();
  return articles;
}

std::string detokenize_article(std::string_view article) {
  std::string text(article);
  for (const auto& [from, to] : kBeforePairs) replace_all(text, from, to);
  for (const auto& [open, close] : {std::pair{'(', ')'}, {'[', ']'}, {'{', '}'}, {'"', '"'}}) {
    tighten_pairs(text, open, close);
  }
  tighten_pairs(text, '\'', '\'');
  for (const auto& [from, to] : kAfterPairs) replace_all(text, from, to);
  return text;
}

int64_t count_words(std::string_view text) {
  int64_t pieces = 1;
  bool in_white = false;
  while (!text.empty()) {
    const size_t white = leading_white(text);
    if (white > 0 && !in_white) ++pieces;
    in_white = white > 0;
    text.remove_prefix(white > 0 ? white : static_cast<size_t>(decode_utf8(text).length));
  }
  return pieces;
}

}  // namespace nibble::eval
