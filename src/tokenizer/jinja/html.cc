// Tag removal, entities.
#include "tokenizer/jinja/html.h"

#include "base/utf8.h"
#include "tokenizer/jinja/text.h"

#include <cstdlib>

namespace nibble::tokenizer::jinja {
namespace {

struct Entity {
  std::string_view name;
  uint32_t code_point;
};

constexpr Entity kEntities[] = {
    {"amp", '&'},       {"lt", '<'},       {"gt", '>'},       {"quot", '"'},   {"apos", '\''},
    {"nbsp", 0xA0},     {"copy", 0xA9},    {"reg", 0xAE},     {"laquo", 0xAB}, {"raquo", 0xBB},
    {"hellip", 0x2026}, {"mdash", 0x2014}, {"ndash", 0x2013}, {"euro", 0x20AC}};

// The code point of the entity named between & and ;, 0 when unknown.
uint32_t resolve_entity(std::string_view name) {
  if (name.size() > 1 && name[0] == '#') {
    const bool is_hex = name[1] == 'x' || name[1] == 'X';
    const std::string digits(name.substr(is_hex ? 2 : 1));
    char* end = nullptr;
    const unsigned long code = std::strtoul(digits.c_str(), &end, is_hex ? 16 : 10);
    const bool valid = !digits.empty() && *end == '\0' && code > 0 && code < 0x110000 &&
                       (code < 0xD800 || code > 0xDFFF);
    return valid ? static_cast<uint32_t>(code) : 0;
  }
  for (const Entity& entity : kEntities) {
    if (entity.name == name) return entity.code_point;
  }
  return 0;
}

std::string unescape(std::string_view text) {
  std::string out;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = text[at] == '&' ? text.find(';', at) : std::string_view::npos;
    const bool is_entity = end != std::string_view::npos && end - at < 12;
    const uint32_t code = is_entity ? resolve_entity(text.substr(at + 1, end - at - 1)) : 0;
    if (code == 0) {
      out += text[at++];
    } else {
      append_utf8(out, code);
      at = end + 1;
    }
  }
  return out;
}

}  // namespace

std::string strip_tags(std::string_view text) {
  std::string kept;
  size_t at = 0;
  for (size_t start = text.find('<'); start != std::string_view::npos; start = text.find('<', at)) {
    const bool is_comment = text.substr(start, 4) == "<!--";
    const size_t end = is_comment ? text.find("-->", start + 4) : text.find('>', start);
    if (end == std::string_view::npos) break;
    kept += text.substr(at, start - at);
    at = end + (is_comment ? 3 : 1);
  }
  kept += text.substr(at);
  std::string out;
  for (const std::string_view word : split_space(kept, -1)) {
    if (!out.empty()) out += ' ';
    out += word;
  }
  return unescape(out);
}

}  // namespace nibble::tokenizer::jinja
