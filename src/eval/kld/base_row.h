// How one position of a base file is kept: 16-bit codes, plain logits, or the best entries only.
//
// Little-endian bytes, every row of a file equally long. The 16-bit form is the row of llama.cpp's
// files: scale and lowest log-probability as floats, then one code an entry, padded to an even
// number of entries (spec eval.md 3.3). Codes end 24 nats below the best entry; our files add
// what is lost there: the mass of all lower entries, and the true token's own log-probability.
#pragma once

#include "base/result.h"
#include "eval/kld/position_record.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::eval {

enum class BaseEncoding { codes16, logits32, top_entries };

const char* base_encoding_name(BaseEncoding encoding);
/// "full", "exact", "topk". Errors: invalid_argument.
Result<BaseEncoding> parse_base_encoding(const std::string& name);

/// What codes cannot hold.
struct CodesTail {
  float token_ln_p = 0;  // of the true token
  float ln_rest = 0;  // ln of the mass of all entries below the codes; -inf if there is none
};

struct BaseRowLayout {
  BaseEncoding encoding = BaseEncoding::codes16;
  int64_t vocab_size = 0;
  int64_t kept = 0;  // entries of top_entries, at least 5 and at most vocab_size
  bool has_tail = false;  // codes16: a CodesTail at the end

  size_t row_bytes() const;
};

/// Writes row_bytes() bytes. logits: finite, vocab_size of them; token: the true one.
void encode_base_row(const BaseRowLayout& layout, std::span<const float> logits, int32_t token,
                     std::span<std::byte> row);

/// codes16 and logits32 as values: log-probabilities (not exactly normalized), or logits. With a
/// tail that has a rest, the entries below the codes are -inf. Errors: corrupt when a number is not
/// finite.
Result<void> decode_values(const BaseRowLayout& layout, std::span<const std::byte> row,
                           std::span<float> values);

/// Of rows that have one. Errors: corrupt.
Result<CodesTail> decode_tail(const BaseRowLayout& layout, std::span<const std::byte> row);

/// Errors: corrupt (ids out of range or out of order, numbers that are no log-probabilities).
Result<TopEntries> decode_top_entries(const BaseRowLayout& layout, std::span<const std::byte> row);

}  // namespace nibble::eval
