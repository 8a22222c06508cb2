#include "eval/kld/base_row.h"

#include "base/check.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

namespace nibble::eval {
namespace {

static_assert(std::endian::native == std::endian::little, "base files are little-endian");

// Entries more than this below the best one share the lowest code.
constexpr float kRange = 24.0f;
constexpr float kLargestCode = 65535.0f;

struct CodedHead {
  float scale;
  float lowest_ln_p;
};
struct TopHead {
  float ln_rest, token_ln_p, entropy;
};
struct TopEntry {
  int32_t id;
  float ln_p;
};

template <typename T>
void put(std::span<std::byte> row, size_t offset, const T& value) {
  std::memcpy(row.data() + offset, &value, sizeof value);
}

template <typename T>
T get(std::span<const std::byte> row, size_t offset) {
  T value;
  std::memcpy(&value, row.data() + offset, sizeof value);
  return value;
}

// least_code: of entries above the lowest; 1 leaves code 0 to what lies below the codes.
void encode_codes(std::span<const float> logits, float least_code, std::span<std::byte> row) {
  const auto [least, largest] = std::minmax_element(logits.begin(), logits.end());
  const float best = *largest;
  const float low = std::max(*least, best - kRange);
  const float scale = (best - low) / kLargestCode;
  const double log_sum = normalized(logits).log_sum;
  std::fill(row.begin(), row.end(), std::byte{0});
  put(row, 0, CodedHead{scale, static_cast<float>(static_cast<double>(low) - log_sum)});
  for (size_t v = 0; v < logits.size(); ++v) {
    if (!(logits[v] > low)) continue;
    const float code =
        std::clamp(std::nearbyint((logits[v] - low) / scale), least_code, kLargestCode);
    put(row, sizeof(CodedHead) + 2 * v, static_cast<uint16_t>(code));
  }
}

CodesTail tail_of(std::span<const float> logits, int32_t token) {
  const float low = *std::max_element(logits.begin(), logits.end()) - kRange;
  const LogProbRow probabilities = normalized(logits);
  double rest = 0;
  for (size_t v = 0; v < logits.size(); ++v) {
    if (logits[v] <= low) rest += std::exp(probabilities.ln(static_cast<int32_t>(v)));
  }
  return {static_cast<float>(probabilities.ln(token)), static_cast<float>(std::log(rest))};
}

void encode_top(int64_t kept, std::span<const float> logits, int32_t token,
                std::span<std::byte> row) {
  const LogProbRow probabilities = normalized(logits);
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto middle = ids.begin() + kept;
  std::nth_element(ids.begin(), middle - 1, ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  });
  std::sort(ids.begin(), middle);
  double rest = 0;
  for (auto id = middle; id != ids.end(); ++id) rest += std::exp(probabilities.ln(*id));
  double entropy = 0;
  for (const int32_t id : ids) {
    const double ln_p = probabilities.ln(id);
    entropy -= std::exp(ln_p) * ln_p;
  }
  put(row, 0,
      TopHead{static_cast<float>(std::log(rest)), static_cast<float>(probabilities.ln(token)),
              static_cast<float>(entropy)});
  for (int64_t i = 0; i < kept; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    put(row, sizeof(TopHead) + static_cast<size_t>(i) * sizeof(TopEntry),
        TopEntry{id, static_cast<float>(probabilities.ln(id))});
  }
}

// ln of a probability may be a little above 0 by rounding.
constexpr float kRounding = 1e-3f;

bool is_ln_p(float x) {
  return x <= kRounding;  // false for NaN
}

Error bad_number(const char* what) {
  return Error{ErrorCode::corrupt, std::string(what) + " is not finite or out of range"};
}

}  // namespace

const char* base_encoding_name(BaseEncoding encoding) {
  switch (encoding) {
    case BaseEncoding::codes16:
      return "full";
    case BaseEncoding::logits32:
      return "exact";
    case BaseEncoding::top_entries:
      return "topk";
  }
  return "";
}

Result<BaseEncoding> parse_base_encoding(const std::string& name) {
  for (const BaseEncoding encoding :
       {BaseEncoding::codes16, BaseEncoding::logits32, BaseEncoding::top_entries}) {
    if (name == base_encoding_name(encoding)) return encoding;
  }
  return Error{ErrorCode::invalid_argument,
               "base encoding: found '" + name + "', expected full, exact or topk"};
}

size_t BaseRowLayout::row_bytes() const {
  const auto vocab = static_cast<size_t>(vocab_size);
  switch (encoding) {
    case BaseEncoding::codes16:
      return sizeof(CodedHead) + (vocab + 1) / 2 * 4 + (has_tail ? sizeof(CodesTail) : 0);
    case BaseEncoding::logits32:
      return vocab * sizeof(float);
    case BaseEncoding::top_entries:
      return sizeof(TopHead) + static_cast<size_t>(kept) * sizeof(TopEntry);
  }
  return 0;
}

void encode_base_row(const BaseRowLayout& layout, std::span<const float> logits, int32_t token,
                     std::span<std::byte> row) {
  NIBBLE_CHECK(
      row.size() == layout.row_bytes() && logits.size() == static_cast<size_t>(layout.vocab_size),
      "base row", row.size(), logits.size());
  switch (layout.encoding) {
    case BaseEncoding::codes16:
      encode_codes(logits, layout.has_tail ? 1.0f : 0.0f, row);
      if (layout.has_tail) put(row, row.size() - sizeof(CodesTail), tail_of(logits, token));
      break;
    case BaseEncoding::logits32:
      std::memcpy(row.data(), logits.data(), row.size());
      break;
    case BaseEncoding::top_entries:
      encode_top(layout.kept, logits, token, row);
      break;
  }
}

Result<void> decode_values(const BaseRowLayout& layout, std::span<const std::byte> row,
                           std::span<float> values) {
  NIBBLE_CHECK(row.size() == layout.row_bytes() &&
                   values.size() == static_cast<size_t>(layout.vocab_size) &&
                   layout.encoding != BaseEncoding::top_entries,
               "base row", row.size(), values.size());
  if (layout.encoding == BaseEncoding::logits32) {
    std::memcpy(values.data(), row.data(), row.size());
    for (const float value : values) {
      if (!std::isfinite(value)) return bad_number("a logit");
    }
    return {};
  }
  const auto head = get<CodedHead>(row, 0);
  if (!std::isfinite(head.scale) || head.scale < 0) return bad_number("the scale");
  if (!std::isfinite(head.lowest_ln_p) ||
      !std::isfinite(head.scale * kLargestCode + head.lowest_ln_p)) {
    return bad_number("the lowest log-probability");
  }
  float lowest = head.lowest_ln_p;
  if (layout.has_tail) {
    NIBBLE_ASSIGN_OR_RETURN(const CodesTail tail, decode_tail(layout, row));
    if (std::isfinite(tail.ln_rest)) lowest = -std::numeric_limits<float>::infinity();
  }
  for (size_t v = 0; v < values.size(); ++v) {
    const auto code = get<uint16_t>(row, sizeof(CodedHead) + 2 * v);
    values[v] = code == 0 ? lowest : static_cast<float>(code) * head.scale + head.lowest_ln_p;
  }
  return {};
}

Result<CodesTail> decode_tail(const BaseRowLayout& layout, std::span<const std::byte> row) {
  NIBBLE_CHECK(layout.has_tail && row.size() == layout.row_bytes(), "base row", row.size());
  const auto tail = get<CodesTail>(row, row.size() - sizeof(CodesTail));
  if (!is_ln_p(tail.token_ln_p)) return bad_number("the true token's log-probability");
  if (!is_ln_p(tail.ln_rest)) return bad_number("the mass below the codes");
  return tail;
}

Result<TopEntries> decode_top_entries(const BaseRowLayout& layout, std::span<const std::byte> row) {
  NIBBLE_CHECK(row.size() == layout.row_bytes() && layout.encoding == BaseEncoding::top_entries,
               "base row", row.size());
  const auto head = get<TopHead>(row, 0);
  if (!is_ln_p(head.ln_rest)) return bad_number("the mass of the rest");
  if (!is_ln_p(head.token_ln_p)) return bad_number("the true token's log-probability");
  if (!(head.entropy >= -kRounding) || std::isinf(head.entropy)) return bad_number("the entropy");
  TopEntries out;
  out.ln_rest = head.ln_rest;
  out.token_ln_p = head.token_ln_p;
  out.entropy = head.entropy;
  for (int64_t i = 0; i < layout.kept; ++i) {
    const auto entry =
        get<TopEntry>(row, sizeof(TopHead) + static_cast<size_t>(i) * sizeof(TopEntry));
    const int32_t least = out.ids.empty() ? 0 : out.ids.back() + 1;
    if (entry.id < least || entry.id >= layout.vocab_size) {
      return Error{ErrorCode::corrupt, fmt::format("entry {}: token id {}, expected {} to {}", i,
                                                   entry.id, least, layout.vocab_size - 1)};
    }
    if (!is_ln_p(entry.ln_p)) return bad_number("a log-probability");
    out.ids.push_back(entry.id);
    out.ln_p.push_back(entry.ln_p);
  }
  return out;
}

}  // namespace nibble::eval
