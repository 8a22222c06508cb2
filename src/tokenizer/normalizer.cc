// Walks the text once, hands the stretches between inert code points to utf8proc.
#include "tokenizer/normalizer.h"

#include "base/check.h"
#include "base/utf8.h"
#include "tokenizer/unicode_tables.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace nibble::tokenizer {
namespace {

constexpr uint8_t kLeadOfU0300 = 0xCC;

bool is_inert(uint32_t code_point) {
  const auto ranges = nfc_inert_ranges();
  if (code_point < ranges.front().first) return false;
  const auto after =
      std::upper_bound(ranges.begin(), ranges.end(), code_point,
                       [](uint32_t c, const CodePointRange& range) { return c < range.first; });
  return code_point <= (after - 1)->last;
}

void append_normalized(std::string& out, std::string_view text) {
  if (is_plainly_nfc(text)) {
    out += text;
    return;
  }
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  NIBBLE_CHECK(length >= 0, "utf8proc_map failed on valid UTF-8", utf8proc_errmsg(length));
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
  std::free(mapped);
}

}  // namespace

bool is_plainly_nfc(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < kLeadOfU0300; });
}

std::string normalize_nfc(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const uint8_t lead = static_cast<uint8_t>(text[at]);
    if (lead < kLeadOfU0300) {
      ++at;
      continue;
    }
    const Utf8Step step = decode_utf8(text.substr(at));
    const size_t next = at + static_cast<size_t>(step.length);
    if (is_inert(step.code_point)) {
      append_normalized(out, text.substr(start, at - start));
      out += text.substr(at, next - at);
      start = next;
    }
    at = next;
  }
  append_normalized(out, text.substr(start));
  return out;
}

}  // namespace nibble::tokenizer
