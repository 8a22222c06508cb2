#include "server/connection.h"

#include "base/log.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <exception>
#include <optional>
#include <utility>

namespace nibble::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

// Errors as values: an awaited operation gives (error_code, result).
constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);

constexpr auto kPollInterval = std::chrono::milliseconds(50);
constexpr auto kLingerTime = std::chrono::seconds(2);
constexpr size_t kLingerBytes = 8 * 1024 * 1024;
constexpr size_t kReadBytes = 16 * 1024;

std::chrono::steady_clock::duration seconds(double s) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(s));
}

ApiError head_error(const beast::error_code& ec, const ServerOptions& options) {
  if (ec == http::error::header_limit || ec == http::error::buffer_overflow) {
    return {400, fmt::format("The headers have more than {} bytes", options.max_header_bytes), "",
            0};
  }
  if (ec == http::error::body_limit) {
    return {413, fmt::format("The body has more than {} bytes", options.max_body_bytes), "", 0};
  }
  if (ec == beast::error::timeout) return {408, "The request did not arrive in time", "", 0};
  return {400, fmt::format("Malformed HTTP request: {}", ec.message()), "", 0};
}

// A read that failed because the client left needs no answer.
bool is_disconnect(const beast::error_code& ec) {
  return ec == http::error::end_of_stream || ec == http::error::partial_message ||
         ec == asio::error::eof || ec == asio::error::connection_reset ||
         ec == asio::error::operation_aborted || ec == asio::error::bad_descriptor ||
         ec == asio::error::broken_pipe;
}

}  // namespace

Connection::Connection(asio::ip::tcp::socket socket, ConnectionContext& context)
    : context_(context),
      stream_(std::move(socket)),
      wake_timer_(stream_.get_executor()),
      watch_timer_(stream_.get_executor()),
      deadline_timer_(stream_.get_executor()) {}

void Connection::start(std::function<void()> on_end) {
  on_end_ = std::move(on_end);
  auto self = shared_from_this();
  asio::co_spawn(
      stream_.get_executor(), [self]() { return self->run(); },
      [self](std::exception_ptr) {
        // Nothing is thrown but by the allocator; whatever it was, this connection is over.
        if (self->pending_ != nullptr) self->stop_watching();
        self->pending_.reset();
        self->close_now();
        self->on_end_();
      });
}

void Connection::drain() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    self->is_draining_ = true;
    if (self->is_idle_) self->close_now();
  });
}

void Connection::abort_reply() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    self->is_aborted_ = true;
    if (self->pending_ != nullptr) self->pending_->abort();
  });
}

void Connection::close() {
  asio::post(stream_.get_executor(), [self = shared_from_this()] {
    self->is_gone_ = true;
    self->close_now();
    self->wake();
  });
}

void Connection::close_now() {
  beast::error_code ignored;
  stream_.socket().close(ignored);
}

Connection::Task<> Connection::run() {
  beast::error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  while (co_await serve_one()) {
  }
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
}

// One request and its answer. False: the connection ends.
Connection::Task<bool> Connection::serve_one() {
  is_idle_ = true;
  if (is_draining_ || !co_await wait_for_request()) co_return false;
  is_idle_ = false;
  Parser parser;
  parser.header_limit(static_cast<uint32_t>(context_.options.max_header_bytes));
  parser.body_limit(context_.options.max_body_bytes);
  if (!co_await read_head(parser)) co_return false;
  HttpRequest request = take_request(parser);
  context_.app.name_request(request);
  if (request.headers.size() > context_.options.max_headers) {
    ApiError error{400,
                   fmt::format("The request has {} headers, at most {} are allowed",
                               request.headers.size(), context_.options.max_headers),
                   "", 0};
    co_return co_await refuse(request, std::move(error));
  }
  if (!co_await read_body(parser, request)) co_return false;
  Reply reply = co_await get_reply(request);
  if (is_gone_) co_return false;
  if (auto* whole = std::get_if<HttpResponse>(&reply)) {
    co_return co_await send_whole(request, std::move(*whole));
  }
  co_return co_await send_pending(request,
                                  std::move(std::get<std::unique_ptr<PendingReply>>(reply)));
}

// The first byte of a request, which may be in the buffer already (pipelining).
Connection::Task<bool> Connection::wait_for_request() {
  if (buffer_.size() > 0) co_return true;
  stream_.expires_after(seconds(context_.options.idle_timeout_seconds));
  const auto [ec, n] = co_await stream_.async_read_some(buffer_.prepare(kReadBytes), kAwait);
  buffer_.commit(n);
  co_return !ec;
}

Connection::Task<bool> Connection::read_head(Parser& parser) {
  start_deadline(context_.options.header_timeout_seconds);
  auto [ec, n] = co_await http::async_read_header(stream_, buffer_, parser, kAwait);
  if (stop_deadline() && ec) ec = beast::error::timeout;
  if (!ec) co_return true;
  if (is_disconnect(ec)) co_return false;
  HttpRequest unnamed;
  context_.app.name_request(unnamed);
  ApiError error = head_error(ec, context_.options);
  co_return co_await refuse(unnamed, std::move(error));
}

HttpRequest Connection::take_request(Parser& parser) {
  const auto& message = parser.get();
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  request.path = target.substr(0, target.find('?'));
  for (const auto& field : message) {
    request.headers.push_back({std::string(field.name_string()), std::string(field.value())});
  }
  keep_alive_ = message.keep_alive();
  is_http_1_0_ = message.version() < 11;
  return request;
}

Connection::Task<bool> Connection::read_body(Parser& parser, HttpRequest& request) {
  if (parser.is_done()) co_return true;
  const std::string* expect = request.header("Expect");
  if (expect != nullptr && beast::iequals(*expect, "100-continue") && buffer_.size() == 0) {
    std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!co_await write(std::move(go_on))) co_return false;
  }
  while (!parser.is_done()) {
    start_deadline(context_.options.body_timeout_seconds);
    auto [ec, n] = co_await http::async_read_some(stream_, buffer_, parser, kAwait);
    if (stop_deadline() && ec) ec = beast::error::timeout;
    if (!ec) continue;
    if (is_disconnect(ec)) co_return false;
    ApiError error = head_error(ec, context_.options);
    co_return co_await refuse(request, std::move(error));
  }
  request.body = std::move(parser.get().body());
  co_return true;
}

// A deadline for the reads of one request. Not tcp_stream's own: that one closes the socket, and a
// late client still gets its 408.
void Connection::start_deadline(double after_seconds) {
  stream_.expires_never();
  is_late_ = false;
  deadline_timer_.expires_after(seconds(after_seconds));
  deadline_timer_.async_wait(
      [self = shared_from_this(), number = ++current_deadline_](const beast::error_code& ec) {
        if (ec || number != self->current_deadline_) return;
        self->is_late_ = true;
        beast::error_code ignored;
        self->stream_.socket().cancel(ignored);
      });
}

// True if it had passed.
bool Connection::stop_deadline() {
  ++current_deadline_;
  deadline_timer_.cancel();
  return std::exchange(is_late_, false);
}

// Answers a request that was not read to its end: the connection cannot go on after it.
Connection::Task<bool> Connection::refuse(HttpRequest& request, ApiError error) {
  keep_alive_ = false;
  HttpResponse response = error_response(error);
  (void)co_await send_whole(request, std::move(response));
  co_await linger();
  co_return false;
}

// Closing with unread bytes makes the kernel reset the connection, and the client may lose our
// answer. So the rest of what it sends is read and dropped, within bounds.
Connection::Task<> Connection::linger() {
  beast::error_code ignored;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  stream_.expires_after(kLingerTime);
  buffer_.clear();
  for (size_t dropped = 0; dropped < kLingerBytes;) {
    const auto [ec, n] = co_await stream_.async_read_some(buffer_.prepare(kReadBytes), kAwait);
    if (ec) break;
    dropped += n;
  }
}

Connection::Task<Reply> Connection::get_reply(HttpRequest& request) {
  if (context_.app.run_on(request) == RunOn::io) co_return context_.app.handle(request);
  // The worker writes `reply` while this coroutine, which owns it, only waits.
  std::optional<Reply> reply;
  bool is_done = false;
  asio::post(context_.workers, [self = shared_from_this(), &request, &reply, &is_done] {
    reply = self->context_.app.handle(request);
    asio::post(self->stream_.get_executor(), [self, &is_done] {
      is_done = true;
      self->wake();
    });
  });
  while (!is_done) co_await wait_for_wake(Clock::time_point::max());
  co_return std::move(*reply);
}

Connection::Task<bool> Connection::send_whole(const HttpRequest& request, HttpResponse response) {
  ReplyPart part;
  part.head = std::move(response);
  part.last = true;
  std::string bytes = part_bytes(request, part);
  const bool is_written = co_await write(std::move(bytes));
  co_return is_written&& keep_alive_;
}

// Bytes of a part: head, chunk framing and end of body.
std::string Connection::part_bytes(const HttpRequest& request, ReplyPart& part) {
  std::string bytes;
  std::string data = std::move(part.chunk);
  if (part.head.has_value()) {
    HttpResponse& head = *part.head;
    if (is_draining_ || context_.app.is_draining()) keep_alive_ = false;
    HeadOptions options;
    is_chunked_ = head.streamed && !is_http_1_0_;
    options.chunked = is_chunked_;
    if (!head.streamed) options.content_length = head.body.size();
    if (head.streamed && is_http_1_0_) keep_alive_ = false;  // the end of the body is the close
    options.keep_alive = keep_alive_;
    context_.app.add_common_headers(request, head);
    bytes = head_bytes(head, options);
    data.insert(0, head.body);
    if (request.method == "HEAD") return bytes;
  }
  if (!is_chunked_) return bytes + data;
  if (!data.empty()) bytes += chunk_bytes(data);
  if (part.last) {
    bytes += kLastChunk;
    is_chunked_ = false;
  }
  return bytes;
}

Connection::Task<bool> Connection::send_pending(HttpRequest& request,
                                                std::unique_ptr<PendingReply> pending) {
  pending_ = std::move(pending);
  const uint64_t watch = ++current_watch_;
  asio::co_spawn(
      stream_.get_executor(),
      [self = shared_from_this(), watch]() { return self->watch_close(watch); }, asio::detached);
  pending_->set_wake([weak = weak_from_this(), executor = stream_.get_executor()] {
    asio::post(executor, [weak] {
      if (const auto self = weak.lock()) self->wake();
    });
  });
  if (is_aborted_) pending_->abort();
  const bool is_sent = co_await send_parts(request);
  stop_watching();
  pending_.reset();
  co_return is_sent&& keep_alive_ && !is_gone_;
}

Connection::Task<bool> Connection::send_parts(const HttpRequest& request) {
  const auto heartbeat = seconds(context_.options.heartbeat_seconds);
  auto last_sent = Clock::now();
  for (;;) {
    if (is_gone_ || pending_->overflowed()) co_return false;
    ReplyPart part = pending_->take(Clock::now() >= last_sent + heartbeat);
    if (part.empty()) {
      // A plain answer has no heartbeat: after the first interval only a wake brings news.
      const bool is_overdue = Clock::now() >= last_sent + heartbeat;
      const auto deadline = is_overdue ? Clock::time_point::max() : last_sent + heartbeat;
      co_await wait_for_wake(deadline);
      continue;
    }
    std::string bytes = part_bytes(request, part);
    if (!bytes.empty() && !co_await write(std::move(bytes))) co_return false;
    last_sent = Clock::now();
    if (part.last) co_return true;
  }
}

Connection::Task<bool> Connection::write(std::string bytes) {
  stream_.expires_after(seconds(context_.options.write_timeout_seconds));
  is_writing_ = true;
  const auto [ec, n] = co_await asio::async_write(stream_, asio::buffer(bytes), kAwait);
  is_writing_ = false;
  stream_.expires_never();
  co_return !ec;
}

void Connection::wake() {
  is_woken_ = true;
  wake_timer_.cancel();
  // A write that waits for a client who does not read must not outlive the bounded buffer.
  if (is_writing_ && pending_ != nullptr && pending_->overflowed()) close_now();
}

Connection::Task<> Connection::wait_for_wake(Clock::time_point deadline) {
  if (!is_woken_) {
    wake_timer_.expires_at(deadline);
    (void)co_await wake_timer_.async_wait(kAwait);
  }
  is_woken_ = false;
}

// Watches the socket while an answer is in the making: end of input or an error means the client is
// gone. Bytes may be a pipelined request, which must stay in the socket; then waiting for
// readability would spin, and the kernel is asked at intervals instead.
Connection::Task<> Connection::watch_close(uint64_t watch) {
  bool by_poll = !context_.options.cancel_on_half_close;
  while (current_watch_ == watch) {
    if (by_poll) {
      watch_timer_.expires_after(kPollInterval);
      (void)co_await watch_timer_.async_wait(kAwait);
      if (current_watch_ != watch) co_return;
      if (!client_is_gone_by_poll()) continue;
    } else {
      const auto [ec] =
          co_await stream_.socket().async_wait(asio::ip::tcp::socket::wait_read, kAwait);
      if (current_watch_ != watch) co_return;
      char byte = 0;
      const ssize_t n =
          ec ? 0 : recv(stream_.socket().native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      by_poll = n > 0;
      if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR))) continue;
    }
    is_gone_ = true;
    close_now();  // a write in progress ends with an error
    wake();
    co_return;
  }
}

bool Connection::client_is_gone_by_poll() {
  if (!stream_.socket().is_open()) return true;
  pollfd state{};
  state.fd = stream_.socket().native_handle();
  state.events = context_.options.cancel_on_half_close ? POLLRDHUP : 0;
  const int n = poll(&state, 1, 0);
  return n > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL)) != 0;
}

void Connection::stop_watching() {
  ++current_watch_;
  watch_timer_.cancel();
  beast::error_code ignored;
  if (stream_.socket().is_open()) stream_.socket().cancel(ignored);
}

}  // namespace nibble::server
