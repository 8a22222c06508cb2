// The handlers of all routes. Each answers one method and path; the table is in routes.cc.
//
// A handler validates, submits and returns; it never waits for the engine.
#pragma once

#include "server/app.h"
#include "server/http_message.h"

namespace nibble::server {

Reply get_health(AppContext& context, const HttpRequest& request);
Reply get_ready(AppContext& context, const HttpRequest& request);
Reply get_version(AppContext& context, const HttpRequest& request);
Reply get_load(AppContext& context, const HttpRequest& request);
Reply get_models(AppContext& context, const HttpRequest& request);
Reply get_model(AppContext& context, const HttpRequest& request);
Reply post_chat_completions(AppContext& context, const HttpRequest& request);

/// Every route's answer while there is no model: 503.
HttpResponse loading_response(const Route& route);

}  // namespace nibble::server
