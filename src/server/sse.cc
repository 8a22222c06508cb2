#include "server/sse.h"

#include "base/check.h"

#include <fmt/format.h>

namespace nibble::server {

std::string sse_event(std::string_view data, std::string_view name) {
  NIBBLE_CHECK(data.find_first_of("\r\n") == std::string_view::npos, "event data is one line");
  if (name.empty()) return fmt::format("data: {}\n\n", data);
  return fmt::format("event: {}\ndata: {}\n\n", name, data);
}

HttpResponse sse_head() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  head.streamed = true;
  return head;
}

}  // namespace nibble::server
