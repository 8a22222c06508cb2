// The stop token's own text is given out only under include_stop_in_output.
#include "runtime/output_text.h"

#include <algorithm>

namespace nibble::runtime {

namespace {

tokenizer::SkipSpecial skip_special(const Request& request) {
  return request.skip_special_tokens ? tokenizer::SkipSpecial::yes : tokenizer::SkipSpecial::no;
}

IncludeStop include_stop(const Request& request) {
  return request.include_stop_in_output ? IncludeStop::yes : IncludeStop::no;
}

}  // namespace

OutputText::OutputText(const tokenizer::Tokenizer& tokenizer, const Request& request)
    : decoder_(tokenizer, skip_special(request)),
      stop_strings_(request.stop, include_stop(request)),
      stop_tokens_(request.stop_token_ids),
      include_(include_stop(request)),
      min_tokens_(request.min_tokens) {}

std::optional<StopHit> OutputText::feed(int32_t token, std::string& text) {
  ++num_tokens_;
  const bool is_stop_token =
      num_tokens_ > min_tokens_ &&
      std::find(stop_tokens_.begin(), stop_tokens_.end(), token) != stop_tokens_.end();
  if (!is_stop_token) return feed_text(decoder_.feed(token), text);
  if (include_ == IncludeStop::yes) {
    std::optional<StopHit> hit = feed_text(decoder_.feed(token), text);
    if (hit) return hit;
  }
  std::optional<StopHit> hit = finish(text);
  return hit ? hit : StopHit{{}, token};
}

std::optional<StopHit> OutputText::finish(std::string& text) {
  std::optional<StopHit> hit = feed_text(decoder_.flush(), text);
  if (!hit) stop_strings_.flush(text);
  return hit;
}

std::optional<StopHit> OutputText::feed_text(const std::string& piece, std::string& text) {
  if (piece.empty()) return std::nullopt;
  if (num_tokens_ <= min_tokens_) {
    stop_strings_.feed_unmatched(piece, text);
    return std::nullopt;
  }
  const std::string* match = stop_strings_.feed(piece, text);
  if (match == nullptr) return std::nullopt;
  return StopHit{*match, -1};
}

}  // namespace nibble::runtime
