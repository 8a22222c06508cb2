// Walks the text once, hands the stretches between inert code points to utf8proc.
#include "tokenizer/normalizer.h"

#include "base/check.h"
#include "base/utf8.h"
#include "tokenizer/unicode_tables.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

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

// Canonical decomposition of valid UTF-8.
std::vector<utf8proc_int32_t> decompose(std::string_view text) {
  // Longest canonical decomposition of one code point: 4 (Unicode 15, U+1F82 and its like).
  constexpr utf8proc_ssize_t kRoom = 16;
  std::vector<utf8proc_int32_t> out;
  out.reserve(text.size());
  utf8proc_int32_t parts[kRoom];
  int unused_boundary = 0;
  while (!text.empty()) {
    const Utf8Step step = decode_utf8(text);
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        static_cast<utf8proc_int32_t>(step.code_point), parts, kRoom,
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &unused_boundary);
    NIBBLE_CHECK(count > 0 && count <= kRoom, "utf8proc_decompose_char", step.code_point, count);
    out.insert(out.end(), parts, parts + count);
    text.remove_prefix(static_cast<size_t>(step.length));
  }
  return out;
}

// Canonical order: every run of combining characters by class, equals as they were. utf8proc's own
// sorting is quadratic in the length of a run, which a stranger's text chooses.
void sort_marks(std::vector<utf8proc_int32_t>& code_points) {
  const auto combining_class = [](utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
  };
  for (auto begin = code_points.begin(); begin != code_points.end();) {
    if (combining_class(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, code_points.end(),
                                  [&](utf8proc_int32_t c) { return combining_class(c) == 0; });
    std::stable_sort(begin, end, [&](utf8proc_int32_t a, utf8proc_int32_t b) {
      return combining_class(a) < combining_class(b);
    });
    begin = end;
  }
}

void append_normalized(std::string& out, std::string_view text) {
  if (is_plainly_nfc(text)) {
    out += text;
    return;
  }
  std::vector<utf8proc_int32_t> code_points = decompose(text);
  sort_marks(code_points);
  const utf8proc_ssize_t count = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  NIBBLE_CHECK(count >= 0, "utf8proc_normalize_utf32", utf8proc_errmsg(count));
  for (utf8proc_ssize_t i = 0; i < count; ++i) {
    append_utf8(out, static_cast<uint32_t>(code_points[static_cast<size_t>(i)]));
  }
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
