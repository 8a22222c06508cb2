// HTTP requests and answers as plain structs: all that handlers see of the transport.
//
// A handler returns a Reply: a whole response, or a PendingReply whose parts the connection takes
// as they become ready. Nothing here, and no handler, knows sockets, Asio or Beast.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace nibble::server {

struct HttpHeader {
  std::string name;
  std::string value;
};

struct HttpRequest {
  std::string method;  // upper case
  std::string path;  // without query, still percent-encoded
  std::string path_tail;  // what a prefix route left over, percent-decoded (set by the router)
  std::vector<HttpHeader> headers;
  std::string body;
  std::string request_id;  // the client's X-Request-Id if usable, else ours; echoed in every answer
  bool has_client_id = false;

  /// Value of the first header of that name (any case), or null.
  const std::string* header(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<HttpHeader> headers;
  std::string body;
  bool streamed = false;  // body is the first piece, more follow
};

/// What a PendingReply has ready: the head (once, first), then pieces of a streamed body. All empty
/// and not last: nothing yet.
struct ReplyPart {
  std::optional<HttpResponse> head;
  std::string chunk;
  bool last = false;

  bool empty() const { return !head.has_value() && chunk.empty() && !last; }
};

/// An answer in the making. All calls come from one thread at a time, the connection's; destroying
/// it withdraws whatever work is behind it.
class PendingReply {
 public:
  virtual ~PendingReply() = default;
  /// `wake` is called from any thread when take() may have more. Set before the first take().
  virtual void set_wake(std::function<void()> wake) = 0;
  /// `heartbeat_due`: nothing was sent for a while, an empty-handed reply may send a sign of life.
  virtual ReplyPart take(bool heartbeat_due) = 0;
  /// The client reads too slowly and the bounded buffer is full: the connection gives up.
  virtual bool overflowed() const = 0;
  /// The server drains: end soon. The remaining parts, the last one included, still come.
  virtual void abort() = 0;
};

using Reply = std::variant<HttpResponse, std::unique_ptr<PendingReply>>;

/// Reason phrase of a status ("Not Found"); "Unknown" for one we never send.
std::string_view status_text(int status);

/// "%2F" and the like decoded; '+' stays. A broken escape is kept as it is.
std::string percent_decode(std::string_view text);

/// True for printable ASCII of 1..128 characters: what we accept and echo as X-Request-Id.
bool is_usable_request_id(std::string_view id);

/// True for an absent type, application/json and any +json type, parameters ignored.
bool is_json_content_type(const std::string* content_type);

/// Status line and headers as bytes. `length`: Content-Length, or chunked when absent and
/// `chunked`.
struct HeadOptions {
  std::optional<size_t> content_length;
  bool chunked = false;
  bool keep_alive = true;
};
std::string head_bytes(const HttpResponse& response, const HeadOptions& options);

/// One chunk of a chunked body; the empty chunk would end the body, so `data` must not be empty.
std::string chunk_bytes(std::string_view data);
inline constexpr std::string_view kLastChunk = "0\r\n\r\n";

}  // namespace nibble::server
