// pending_ is never longer than the longest stop string plus one piece, so plain searches do.
#include "runtime/stop.h"

#include "base/check.h"

#include <algorithm>
#include <utility>

namespace nibble::runtime {

StopStrings::StopStrings(std::vector<std::string> strings, IncludeStop include)
    : strings_(std::move(strings)), include_(include) {
  for (const std::string& string : strings_) {
    NIBBLE_CHECK(!string.empty(), "a stop string is empty");
    longest_ = std::max(longest_, string.size());
  }
}

const std::string* StopStrings::feed(std::string_view text, std::string& out) {
  if (strings_.empty()) {
    out += text;
    return nullptr;
  }
  const size_t already_searched = pending_.size();
  pending_ += text;
  const std::string* best = nullptr;
  size_t best_begin = 0;
  size_t best_end = 0;
  for (const std::string& string : strings_) {
    // A match that ends in the old part was passed over by feed_unmatched or does not exist.
    const size_t from =
        already_searched >= string.size() ? already_searched - string.size() + 1 : 0;
    const size_t begin = pending_.find(string, from);
    if (begin == std::string::npos) continue;
    const size_t end = begin + string.size();
    if (best == nullptr || end < best_end || (end == best_end && begin < best_begin)) {
      best = &string;
      best_begin = begin;
      best_end = end;
    }
  }
  if (best == nullptr) {
    release_certain(out);
    return nullptr;
  }
  out.append(pending_, 0, include_ == IncludeStop::yes ? best_end : best_begin);
  pending_.clear();
  return best;
}

void StopStrings::feed_unmatched(std::string_view text, std::string& out) {
  pending_ += text;
  release_certain(out);
}

void StopStrings::flush(std::string& out) {
  out += pending_;
  pending_.clear();
}

void StopStrings::release_certain(std::string& out) {
  const size_t released = pending_.size() - held_suffix();
  out.append(pending_, 0, released);
  pending_.erase(0, released);
}

/// Bytes at the end of pending_ with which some stop string begins, short of all of it.
size_t StopStrings::held_suffix() const {
  if (longest_ == 0) return 0;
  const std::string_view pending = pending_;
  for (size_t length = std::min(longest_ - 1, pending.size()); length > 0; --length) {
    const std::string_view suffix = pending.substr(pending.size() - length);
    for (const std::string& string : strings_) {
      if (string.size() > length && std::string_view(string).substr(0, length) == suffix) {
        return length;
      }
    }
  }
  return 0;
}

}  // namespace nibble::runtime
