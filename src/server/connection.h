// One client connection: reads requests, hands them to App, writes answers, notices when the client
// is gone.
//
// A connection is one coroutine (run) on its own strand, plus a second one that watches the socket
// while an answer is in the making. Only this folder's connection.cc and server.cc know Asio and
// Beast. Rule: everything below "strand only" runs on the strand; other threads post.
#pragma once

#include "server/app.h"
#include "server/http_message.h"
#include "server/options.h"

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace nibble::server {

/// What connections share. Outlives them.
struct ConnectionContext {
  App& app;
  const ServerOptions& options;
  boost::asio::thread_pool& workers;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  /// `socket`'s executor must be a strand. Call start() once.
  Connection(boost::asio::ip::tcp::socket socket, ConnectionContext& context);
  /// Runs until the client leaves; `on_end` is called once, on the strand.
  void start(std::function<void()> on_end);

  // From any thread:
  /// No further request after the current one; closes at once if idle.
  void drain();
  /// Ends the answer in the making early (finish reason "abort").
  void abort_reply();
  /// Drops the connection now.
  void close();

 private:
  using Clock = std::chrono::steady_clock;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  template <typename T = void>
  using Task = boost::asio::awaitable<T>;

  // Strand only.
  Task<> run();
  Task<bool> serve_one();
  Task<bool> wait_for_request();
  Task<bool> read_head(Parser& parser);
  Task<bool> read_body(Parser& parser, HttpRequest& request);
  Task<bool> refuse(HttpRequest& request, ApiError error);
  Task<> linger();
  Task<Reply> get_reply(HttpRequest& request);
  Task<bool> send_whole(const HttpRequest& request, HttpResponse response);
  Task<bool> send_pending(HttpRequest& request, std::unique_ptr<PendingReply> pending);
  Task<bool> send_parts(const HttpRequest& request);
  Task<bool> write(std::string bytes);
  Task<> wait_for_wake(Clock::time_point deadline);
  Task<> watch_close(uint64_t watch);
  bool client_is_gone_by_poll();
  std::string part_bytes(const HttpRequest& request, ReplyPart& part);
  HttpRequest take_request(Parser& parser);
  void start_deadline(double after_seconds);
  bool stop_deadline();
  void wake();
  void stop_watching();
  void close_now();

  ConnectionContext& context_;
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  boost::asio::steady_timer wake_timer_;  // cancelled to wake the coroutine
  boost::asio::steady_timer watch_timer_;
  boost::asio::steady_timer deadline_timer_;
  std::function<void()> on_end_;

  std::unique_ptr<PendingReply> pending_;
  uint64_t current_watch_ = 0;  // a watch whose number is another one ends
  uint64_t current_deadline_ = 0;  // likewise
  bool is_late_ = false;  // the deadline cancelled a read
  bool is_woken_ = false;
  bool is_writing_ = false;
  bool is_idle_ = true;  // between requests
  bool is_draining_ = false;
  bool is_aborted_ = false;
  bool is_gone_ = false;
  bool keep_alive_ = true;
  bool is_http_1_0_ = false;
  bool is_chunked_ = false;  // the body now being sent
};

}  // namespace nibble::server
