// Chat messages, normalised before any template sees them (spec serving.md 5.2).
//
// Templates differ in what they accept; after this step every message has a role of system, user,
// assistant or tool and string content, the system text stands first, there is a user message, and
// tool arguments are objects. A rule about messages belongs here, not into a handler.
#pragma once

#include "base/json.h"
#include "server/openai_errors.h"

namespace nibble::server {

/// `messages`: a JSON array. Problems go to `errors` under "messages.<index>...."; the result is
/// then meaningless.
OrderedJson normalize_messages(const OrderedJson& messages, FieldErrors& errors);

}  // namespace nibble::server
