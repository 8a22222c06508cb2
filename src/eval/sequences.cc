#include "eval/sequences.h"

#include "base/check.h"
#include "base/hash.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::eval {
namespace {

ScoredSequence slice(std::span<const int32_t> tokens, int64_t begin, int64_t end,
                     int64_t first_scored) {
  const auto part = tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  return {{part.begin(), part.end()}, static_cast<int32_t>(first_scored)};
}

}  // namespace

Result<std::vector<ScoredSequence>> half_scored_windows(std::span<const int32_t> tokens,
                                                        int64_t context) {
  const auto count = static_cast<int64_t>(tokens.size());
  if (context < 4) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("context: found {}, expected at least 4", context)};
  }
  if (count < 2 * context) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the text has {} tokens, expected at least {} (two windows of {})",
                             count, 2 * context, context)};
  }
  std::vector<ScoredSequence> out;
  for (int64_t begin = 0; begin + context <= count; begin += context) {
    out.push_back(slice(tokens, begin, begin + context, context / 2 + 1));
  }
  return out;
}

Result<std::vector<ScoredSequence>> sliding_windows(std::span<const int32_t> tokens,
                                                    int64_t context, int64_t stride) {
  const auto count = static_cast<int64_t>(tokens.size());
  if (stride < 1 || stride >= context) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("stride: found {}, expected 1 to {} (context {} less one)", stride,
                             context - 1, context)};
  }
  if (count < context) {
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("the text has {} tokens, expected at least one window of {}", count, context)};
  }
  std::vector<ScoredSequence> out;
  for (int64_t begin = 0; begin + context <= count; begin += stride) {
    out.push_back(slice(tokens, begin, begin + context, begin == 0 ? 1 : context - stride));
  }
  return out;
}

std::vector<ScoredSequence> rolling_windows(std::span<const int32_t> tokens, int32_t prefix_token,
                                            int64_t context) {
  NIBBLE_CHECK(context >= 1, "rolling window", context);
  const auto count = static_cast<int64_t>(tokens.size());
  std::vector<ScoredSequence> out;
  if (count == 0) return out;
  int64_t predicted = std::min(context, count);
  ScoredSequence first = slice(tokens, 0, predicted, 1);
  first.tokens.insert(first.tokens.begin(), prefix_token);
  out.push_back(std::move(first));
  while (predicted < count) {
    const int64_t fresh = std::min(context, count - predicted);
    predicted += fresh;
    out.push_back(slice(tokens, predicted - context - 1, predicted, context + 1 - fresh));
  }
  return out;
}

std::string sequences_digest(std::span<const ScoredSequence> sequences) {
  std::vector<int32_t> words;
  for (const ScoredSequence& sequence : sequences) {
    words.push_back(sequence.length());
    words.push_back(sequence.first_scored);
    words.insert(words.end(), sequence.tokens.begin(), sequence.tokens.end());
  }
  return sha256_hex(std::as_bytes(std::span(words)));
}

int64_t total_rows(std::span<const ScoredSequence> sequences) {
  int64_t rows = 0;
  for (const ScoredSequence& sequence : sequences) rows += sequence.rows();
  return rows;
}

int64_t total_scored_tokens(std::span<const ScoredSequence> sequences) {
  int64_t tokens = 0;
  for (const ScoredSequence& sequence : sequences) tokens += sequence.scored_tokens();
  return tokens;
}

int32_t longest_sequence(std::span<const ScoredSequence> sequences) {
  int32_t longest = 0;
  for (const ScoredSequence& sequence : sequences) longest = std::max(longest, sequence.length());
  return longest;
}

}  // namespace nibble::eval
