// Token sequences to score: how the modes of perplexity and KL divergence cut a tokenized text.
//
// Every sequence runs from an empty state and is scored from `first_scored` to its end; the tokens
// before are context only. Pure functions of token ids; rules: spec eval.md 2.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nibble::eval {

struct ScoredSequence {
  std::vector<int32_t> tokens;
  int32_t first_scored = 1;  // >= 1: token 0 is never predicted

  int32_t length() const { return static_cast<int32_t>(tokens.size()); }
  /// Rows that run: the last token is predicted, never fed.
  int32_t rows() const { return length() - 1; }
  int32_t scored_tokens() const { return length() - first_scored; }
};

/// Windows of `context` tokens side by side, their second halves scored; the rest of the text is
/// dropped. Errors: invalid_argument below two windows of tokens, or for a context below 4.
Result<std::vector<ScoredSequence>> half_scored_windows(std::span<const int32_t> tokens,
                                                        int64_t context);

/// Windows of `context` tokens moved by `stride`: the first is scored whole (but for its first
/// token), the others in their last `stride` tokens. Fewer than `stride` tokens at the end are
/// dropped. Errors: invalid_argument for a stride outside 1 .. context - 1, or less than one
/// window.
Result<std::vector<ScoredSequence>> sliding_windows(std::span<const int32_t> tokens,
                                                    int64_t context, int64_t stride);

/// Every token of a document scored exactly once, the first from `prefix_token`; no window feeds
/// more than `context` tokens, and the last one reaches back as far as that. context >= 1.
std::vector<ScoredSequence> rolling_windows(std::span<const int32_t> tokens, int32_t prefix_token,
                                            int64_t context);

/// SHA-256 over tokens and scored ranges: two results may be compared only if these agree.
std::string sequences_digest(std::span<const ScoredSequence> sequences);

int64_t total_rows(std::span<const ScoredSequence> sequences);
int64_t total_scored_tokens(std::span<const ScoredSequence> sequences);
int32_t longest_sequence(std::span<const ScoredSequence> sequences);

}  // namespace nibble::eval
