// Server: the OpenAI-compatible HTTP server over an Engine. Listener, threads and orderly stop.
//
// open() returns when the port is bound; requests are told that a model is loading until serve()
// brings one. All sockets live on the
// server's own I/O threads; rendering and tokenizing run on its worker threads; the engine has its
// own.
#pragma once

#include "base/result.h"
#include "runtime/engine.h"
#include "server/chat_model.h"
#include "server/options.h"

#include <cstdint>
#include <memory>

namespace nibble::server {

class Server {
 public:
  /// Binds the port and answers 503 to everything. Errors: io (address in use, unknown host).
  static Result<std::unique_ptr<Server>> open(const ServerOptions& options);
  /// From here on requests are served. Once. `engine` and `model` are used and outlive the server.
  /// Errors: invalid_argument.
  Result<void> serve(runtime::Engine& engine, const ChatModel& model);
  /// stop(0) if that was not done.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// The port that is bound (useful with options.port 0).
  uint16_t port() const;

  /// Stops: no new connection, 503 for new requests, running answers go on for at most
  /// `timeout_seconds`, then end with finish reason "abort". Returns when every connection is
  /// closed and all threads are joined. Safe from any thread but the server's; the second call
  /// returns at once.
  void stop(double timeout_seconds);

 private:
  class Impl;
  explicit Server(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::server
