#include "server/server.h"

#include "base/log.h"
#include "server/app.h"
#include "server/connection.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

namespace nibble::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr auto kAwait = asio::as_tuple(asio::use_awaitable);
constexpr int kListenBacklog = 1024;
// After running answers were told to end early they get this long to send their last events.
constexpr double kAbortGraceSeconds = 5;
constexpr auto kAcceptPause = std::chrono::milliseconds(100);

Error bind_error(const ServerOptions& options, const std::string& reason) {
  return Error{ErrorCode::io,
               fmt::format("cannot listen on {}:{}: {}", options.host, options.port, reason)};
}

/// The open connections: counted, reachable, waited for.
class ConnectionSet {
 public:
  void add(const std::shared_ptr<Connection>& connection) {
    const std::lock_guard lock(mutex_);
    connections_.emplace(connection.get(), connection);
  }
  void remove(const Connection* connection) {
    const std::lock_guard lock(mutex_);
    connections_.erase(connection);
    if (connections_.empty()) empty_.notify_all();
  }
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return connections_.size();
  }
  void for_each(void (Connection::*action)()) {
    const std::lock_guard lock(mutex_);
    for (const auto& [key, weak] : connections_) {
      if (const auto connection = weak.lock()) (connection.get()->*action)();
    }
  }
  /// True if none is left within the time.
  bool wait_empty(double seconds) {
    std::unique_lock lock(mutex_);
    return empty_.wait_for(lock, std::chrono::duration<double>(seconds),
                           [this] { return connections_.empty(); });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable empty_;
  std::unordered_map<const Connection*, std::weak_ptr<Connection>> connections_;
};

}  // namespace

class Server::Impl {
 public:
  explicit Impl(const ServerOptions& options)
      : options_(options),
        app_(options_),
        workers_(static_cast<size_t>(std::max(1, options.worker_threads))),
        acceptor_(asio::make_strand(io_)),
        accept_pause_(acceptor_.get_executor()),
        work_(asio::make_work_guard(io_)),
        context_{app_, options_, workers_} {}
  ~Impl() { stop(0); }

  Result<void> open() {
    NIBBLE_RETURN_IF_ERROR(bind());
    for (int i = 0; i < std::max(1, options_.io_threads); ++i) {
      threads_.emplace_back([this] { io_.run(); });
    }
    asio::co_spawn(
        acceptor_.get_executor(), [this]() { return accept(); }, asio::detached);
    return {};
  }

  Result<void> serve(runtime::Engine& engine, const ChatModel& model) {
    return app_.serve(engine, model);
  }

  uint16_t port() const { return port_; }

  void stop(double timeout_seconds) {
    const std::lock_guard lock(stop_mutex_);
    if (is_stopped_) return;
    is_stopped_ = true;
    if (!threads_.empty()) end_connections(timeout_seconds);
    workers_.join();
    work_.reset();
    io_.stop();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  Result<void> bind() {
    boost::system::error_code ec;
    tcp::resolver resolver(io_);
    const auto found =
        resolver.resolve(options_.host, std::to_string(options_.port), tcp::resolver::passive, ec);
    if (ec || found.empty()) return bind_error(options_, ec.message());
    const tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor_.open(endpoint.protocol(), ec);
    if (!ec) acceptor_.set_option(asio::socket_base::reuse_address(true), ec);
    if (!ec) acceptor_.bind(endpoint, ec);
    if (!ec) acceptor_.listen(kListenBacklog, ec);
    if (ec) return bind_error(options_, ec.message());
    port_ = acceptor_.local_endpoint(ec).port();
    return {};
  }

  asio::awaitable<void> accept() {
    for (;;) {
      tcp::socket socket(asio::make_strand(io_));
      const auto [ec] = co_await acceptor_.async_accept(socket, kAwait);
      if (!acceptor_.is_open() || ec == asio::error::operation_aborted) co_return;
      if (ec) {
        // Most often too many open files: wait for some to be closed instead of spinning.
        log_warning(fmt::format("accept: {}", ec.message()));
        accept_pause_.expires_after(kAcceptPause);
        (void)co_await accept_pause_.async_wait(kAwait);
        continue;
      }
      if (connections_.size() >= options_.max_connections) {
        log_warning(fmt::format("more than {} connections, one refused", options_.max_connections));
        continue;
      }
      serve(std::move(socket));
    }
  }

  void serve(tcp::socket socket) {
    auto connection = std::make_shared<Connection>(std::move(socket), context_);
    connections_.add(connection);
    connection->start([this, key = connection.get()] { connections_.remove(key); });
  }

  void end_connections(double timeout_seconds) {
    app_.start_draining();
    std::promise<void> closed;
    asio::post(acceptor_.get_executor(), [this, &closed] {
      boost::system::error_code ignored;
      acceptor_.close(ignored);
      accept_pause_.cancel();
      closed.set_value();
    });
    closed.get_future().wait();
    connections_.for_each(&Connection::drain);
    if (connections_.wait_empty(timeout_seconds)) return;
    connections_.for_each(&Connection::abort_reply);
    if (connections_.wait_empty(kAbortGraceSeconds)) return;
    connections_.for_each(&Connection::close);
    while (!connections_.wait_empty(1)) {
      log_warning(fmt::format("stop: {} connections still end", connections_.size()));
    }
  }

  const ServerOptions options_;
  App app_;
  asio::io_context io_;
  asio::thread_pool workers_;
  tcp::acceptor acceptor_;
  asio::steady_timer accept_pause_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  ConnectionContext context_;
  ConnectionSet connections_;
  std::vector<std::thread> threads_;
  std::mutex stop_mutex_;
  bool is_stopped_ = false;
  uint16_t port_ = 0;
};

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Server::~Server() = default;

Result<std::unique_ptr<Server>> Server::open(const ServerOptions& options) {
  auto impl = std::make_unique<Impl>(options);
  NIBBLE_RETURN_IF_ERROR(impl->open());
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

Result<void> Server::serve(runtime::Engine& engine, const ChatModel& model) {
  return impl_->serve(engine, model);
}

uint16_t Server::port() const {
  return impl_->port();
}

void Server::stop(double timeout_seconds) {
  impl_->stop(timeout_seconds);
}

}  // namespace nibble::server
