// From generated tokens to text and the decision to stop: decoder, stop strings, stop tokens,
// min_tokens.
//
// One per request. min_tokens: no stop token ends the request and no stop string may end within the
// first min_tokens tokens.
#pragma once

#include "runtime/request.h"
#include "runtime/stop.h"
#include "tokenizer/incremental_decoder.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace nibble::runtime {

/// Why a request stopped by itself: one of the two.
struct StopHit {
  std::string string;
  int32_t token = -1;
};

class OutputText {
 public:
  /// The tokenizer outlives this.
  OutputText(const tokenizer::Tokenizer& tokenizer, const Request& request);

  /// Takes the next token and appends the text that became certain to `text`. After a hit all text
  /// of the request has been given out.
  std::optional<StopHit> feed(int32_t token, std::string& text);

  /// Ends the text without a stop (length): gives out what is held back. A stop string that becomes
  /// complete only now, by the replacement of cut-off bytes, counts.
  std::optional<StopHit> finish(std::string& text);

 private:
  std::optional<StopHit> feed_text(const std::string& piece, std::string& text);

  tokenizer::IncrementalDecoder decoder_;
  StopStrings stop_strings_;
  std::vector<int32_t> stop_tokens_;
  IncludeStop include_;
  int32_t min_tokens_;
  int32_t num_tokens_ = 0;
};

}  // namespace nibble::runtime
