// App: everything above the transport - routes, handlers, the rules that hold for every request.
//
// One App per server, shared by all connections; handle() may be called from any thread. Handlers
// are free functions of (AppContext, HttpRequest); the table in routes.cc names them all.
#pragma once

#include "runtime/engine.h"
#include "server/chat_model.h"
#include "server/http_message.h"
#include "server/id_source.h"
#include "server/openai_errors.h"
#include "server/options.h"
#include "server/router.h"

#include <nlohmann/json.hpp>

#include <atomic>
#include <cstdint>
#include <memory>

namespace nibble::server {

/// What handlers work with, once a model is there. References outlive the App.
struct AppContext {
  const ServerOptions& options;
  runtime::Engine& engine;
  const ChatModel& model;
  OrderedJson default_template_kwargs;  // of the model, parsed
  int64_t started = 0;  // Unix seconds
  IdSource& ids;
  const std::atomic<bool>& is_draining;
};

class App {
 public:
  /// Answers 503 to everything until serve(). `options` outlives it.
  explicit App(const ServerOptions& options) : options_(options) {}
  /// From here on requests reach their handlers. Once, while handle() may be running. Errors:
  /// invalid_argument where options or model make no sense.
  Result<void> serve(runtime::Engine& engine, const ChatModel& model);
  App(const App&) = delete;
  App& operator=(const App&) = delete;

  /// Sets the request's id: the client's if usable, else a new one.
  void name_request(HttpRequest& request);
  /// Where handle() should run: templates and tokenization stay off the I/O threads.
  RunOn run_on(const HttpRequest& request) const;
  /// Answers a request. Never throws.
  Reply handle(HttpRequest& request);
  /// Headers every answer carries.
  void add_common_headers(const HttpRequest& request, HttpResponse& response) const;

  /// From now on: /ready says no, new generation requests get 503.
  void start_draining() { is_draining_ = true; }
  bool is_draining() const { return is_draining_; }

 private:
  Reply dispatch(HttpRequest& request);

  const ServerOptions& options_;
  IdSource ids_;
  std::atomic<bool> is_draining_{false};
  std::unique_ptr<AppContext> context_;
  std::atomic<AppContext*> serving_{nullptr};  // context_ when it is whole; null: loading
};

/// The time in Unix seconds.
int64_t unix_seconds();

}  // namespace nibble::server
