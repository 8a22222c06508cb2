// Handlers that answer at once: health, readiness, version, load and the model list.
#include "server/handlers.h"

#include <fmt/format.h>

#include <algorithm>

namespace nibble::server {
namespace {

HttpResponse json_response(const OrderedJson& json) {
  HttpResponse response;
  response.body = dump_json(json);
  return response;
}

OrderedJson model_json(const AppContext& context, const std::string& name) {
  OrderedJson json;
  json["id"] = name;
  json["object"] = "model";
  json["created"] = context.started;
  json["owned_by"] = "nibble";
  json["root"] = context.model.source;
  json["parent"] = nullptr;
  json["max_model_len"] = context.engine.limits().max_model_len;
  json["permission"] = OrderedJson::array();
  return json;
}

}  // namespace

HttpResponse loading_response(const Route& route) {
  HttpResponse response = error_response({503, "Loading model", "", 1});
  if (route.handler == get_health) {
    // What llama.cpp's server says, and clients that wait for it look for.
    response.body = dump_json(OrderedJson{
        {"error", {{"code", 503}, {"message", "Loading model"}, {"type", "unavailable_error"}}}});
  }
  return response;
}

Reply get_health(AppContext&, const HttpRequest&) {
  return json_response(OrderedJson{{"status", "ok"}});
}

Reply get_ready(AppContext& context, const HttpRequest&) {
  if (!context.is_draining) return json_response(OrderedJson{{"status", "ready"}});
  return error_response({503, "The server is shutting down", "", 1});
}

Reply get_version(AppContext& context, const HttpRequest&) {
  return json_response(OrderedJson{{"version", context.options.version}});
}

Reply get_load(AppContext& context, const HttpRequest&) {
  const runtime::EngineStats stats = context.engine.stats();
  return json_response(OrderedJson{{"server_load", stats.running + stats.waiting}});
}

Reply get_models(AppContext& context, const HttpRequest&) {
  OrderedJson json;
  json["object"] = "list";
  OrderedJson& data = json["data"] = OrderedJson::array();
  for (const std::string& name : context.options.served_model_names) {
    data.push_back(model_json(context, name));
  }
  return json_response(json);
}

Reply get_model(AppContext& context, const HttpRequest& request) {
  const std::vector<std::string>& names = context.options.served_model_names;
  if (std::find(names.begin(), names.end(), request.path_tail) != names.end()) {
    return json_response(model_json(context, request.path_tail));
  }
  return error_response(
      {404, fmt::format("The model `{}` does not exist", echo(request.path_tail)), "model", 0});
}

}  // namespace nibble::server
