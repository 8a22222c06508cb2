// The routes of the server: every method and path it answers, in one table.
#include "server/handlers.h"
#include "server/router.h"

namespace nibble::server {
namespace {

constexpr Route kRoutes[] = {
    {"GET", "/health", PathMatch::exact, RunOn::io, get_health},
    {"GET", "/v1/health", PathMatch::exact, RunOn::io, get_health},
    {"GET", "/healthz", PathMatch::exact, RunOn::io, get_health},
    {"GET", "/livez", PathMatch::exact, RunOn::io, get_health},
    {"GET", "/ping", PathMatch::exact, RunOn::io, get_health},
    {"GET", "/ready", PathMatch::exact, RunOn::io, get_ready},
    {"GET", "/readyz", PathMatch::exact, RunOn::io, get_ready},
    {"GET", "/version", PathMatch::exact, RunOn::io, get_version},
    {"GET", "/load", PathMatch::exact, RunOn::io, get_load},
    {"GET", "/v1/models", PathMatch::exact, RunOn::io, get_models},
    {"GET", "/v1/models/", PathMatch::prefix, RunOn::io, get_model},
    {"GET", "/models", PathMatch::exact, RunOn::io, get_models},
    {"GET", "/models/", PathMatch::prefix, RunOn::io, get_model},
    {"POST", "/v1/chat/completions", PathMatch::exact, RunOn::worker, post_chat_completions},
    {"POST", "/chat/completions", PathMatch::exact, RunOn::worker, post_chat_completions},
};

}  // namespace

std::span<const Route> server_routes() {
  return kRoutes;
}

}  // namespace nibble::server
