#include "server/app.h"

#include "base/check.h"
#include "base/log.h"
#include "server/handlers.h"

#include <fmt/format.h>

#include <chrono>
#include <exception>
#include <utility>

namespace nibble::server {

int64_t unix_seconds() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

Result<void> App::serve(runtime::Engine& engine, const ChatModel& model) {
  NIBBLE_CHECK(context_ == nullptr, "serve() is called once");
  if (options_.served_model_names.empty()) {
    return Error{ErrorCode::invalid_argument, "server: no served model name"};
  }
  NIBBLE_ASSIGN_OR_RETURN(OrderedJson kwargs, parse_ordered_json(model.default_template_kwargs,
                                                                 "default chat template kwargs"));
  if (!kwargs.is_object()) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("default chat template kwargs: found {}, expected a JSON object",
                             kwargs.type_name())};
  }
  context_ = std::unique_ptr<AppContext>(new AppContext{options_, engine, model, std::move(kwargs),
                                                        unix_seconds(), ids_, is_draining_});
  serving_.store(context_.get(), std::memory_order_release);
  return {};
}

void App::name_request(HttpRequest& request) {
  const std::string* given = request.header("X-Request-Id");
  request.has_client_id = given != nullptr && is_usable_request_id(*given);
  request.request_id = request.has_client_id ? *given : ids_.hex32();
}

RunOn App::run_on(const HttpRequest& request) const {
  const RouteMatch match = match_route(server_routes(), request.method, request.path);
  return match.route == nullptr ? RunOn::io : match.route->run_on;
}

Reply App::handle(HttpRequest& request) {
  try {
    return dispatch(request);
  } catch (const std::exception& e) {
    log_error(fmt::format("{} {}: {}", request.method, request.path, e.what()));
    return error_response({500, "Internal error", "", 0});
  }
}

Reply App::dispatch(HttpRequest& request) {
  RouteMatch match = match_route(server_routes(), request.method, request.path);
  const std::string place = fmt::format("{} {}", request.method, echo(request.path));
  if (match.route == nullptr && match.allowed.empty()) {
    return error_response({404, fmt::format("Not found: {}", place), "", 0});
  }
  if (match.route == nullptr) {
    HttpResponse response = error_response(
        {405, fmt::format("{}: method not allowed, use {}", place, match.allowed), "", 0});
    response.headers.push_back({"Allow", match.allowed});
    return response;
  }
  AppContext* const context = serving_.load(std::memory_order_acquire);
  if (context == nullptr) return loading_response(*match.route);
  const bool is_post = request.method == "POST";
  if (is_post && is_draining_) {
    return error_response({503, "The server is shutting down", "", 1});
  }
  if (is_post && !is_json_content_type(request.header("Content-Type"))) {
    return error_response({415,
                           fmt::format("Content-Type is {}, expected application/json",
                                       echo(*request.header("Content-Type"))),
                           "", 0});
  }
  request.path_tail = std::move(match.tail);
  return match.route->handler(*context, request);
}

void App::add_common_headers(const HttpRequest& request, HttpResponse& response) const {
  response.headers.push_back({"Server", "nibble/" + options_.version});
  if (!request.request_id.empty()) {
    response.headers.push_back({"X-Request-Id", request.request_id});
  }
}

}  // namespace nibble::server
