// Server-sent events: the text framing of streamed answers (WHATWG HTML, section 9.2).
//
// OpenAI streams use unnamed events and end with kSseDone; the framing of named events (Anthropic,
// Responses) is the same function with a name.
#pragma once

#include "server/http_message.h"

#include <string>
#include <string_view>

namespace nibble::server {

inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";
/// A comment line: keeps proxies and clients from timing out, means nothing to the protocol.
inline constexpr std::string_view kSsePing = ": ping\n\n";

/// "event: NAME\n" (if named) and "data: DATA\n\n". `data` is one line: compact JSON.
std::string sse_event(std::string_view data, std::string_view name = {});

/// The head of a stream: status 200, type and no-buffering headers.
HttpResponse sse_head();

}  // namespace nibble::server
