// Router: finds the handler of a method and path in a table of routes.
//
// The table itself is in routes.cc, all routes in one place. Paths match exactly, or by prefix with
// the percent-decoded rest handed over (model ids contain slashes). HEAD is answered like GET.
#pragma once

#include "server/http_message.h"

#include <span>
#include <string>

namespace nibble::server {

struct AppContext;

enum class RunOn { io, worker };
enum class PathMatch { exact, prefix };

struct Route {
  const char* method;  // GET or POST
  const char* path;
  PathMatch match;
  RunOn run_on;
  Reply (*handler)(AppContext& context, const HttpRequest& request);
};

struct RouteMatch {
  const Route* route = nullptr;  // null: none; then, if the path exists, `allowed` is not empty
  std::string tail;  // decoded rest of a prefix path
  std::string allowed;  // "GET, HEAD": what the path would accept
};

RouteMatch match_route(std::span<const Route> routes, const std::string& method,
                       const std::string& path);

/// All routes of the server.
std::span<const Route> server_routes();

}  // namespace nibble::server
