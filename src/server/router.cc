#include "server/router.h"

#include <string_view>

namespace nibble::server {
namespace {

bool path_matches(const Route& route, std::string_view path) {
  if (route.match == PathMatch::exact) return path == route.path;
  return path.starts_with(route.path) && path.size() > std::string_view(route.path).size();
}

void allow(std::string& allowed, const std::string& method) {
  if (!allowed.empty()) allowed += ", ";
  allowed += method;
  if (method == "GET") allowed += ", HEAD";
}

}  // namespace

RouteMatch match_route(std::span<const Route> routes, const std::string& method,
                       const std::string& path) {
  const std::string wanted = method == "HEAD" ? "GET" : method;
  RouteMatch result;
  for (const Route& route : routes) {
    if (!path_matches(route, path)) continue;
    if (wanted != route.method) {
      allow(result.allowed, route.method);
      continue;
    }
    result.route = &route;
    result.tail = percent_decode(path.substr(std::string_view(route.path).size()));
    return result;
  }
  return result;
}

}  // namespace nibble::server
