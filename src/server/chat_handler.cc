// POST /v1/chat/completions: parse, validate, render, encode, submit. Everything up to the queue.
//
// All that can be wrong with a request is found here, before it is admitted, so that errors keep
// their status. Runs on a worker thread; the answer is made by chat_reply.cc.
#include "server/chat_reply.h"
#include "server/handlers.h"
#include "server/openai_chat.h"
#include "tokenizer/reasoning_splitter.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace nibble::server {
namespace {

std::optional<ApiError> check_model(const AppContext& context, const std::string& name) {
  const std::vector<std::string>& names = context.options.served_model_names;
  if (name.empty() || std::find(names.begin(), names.end(), name) != names.end()) return {};
  return ApiError{404, fmt::format("The model `{}` does not exist", echo(name)), "model", 0};
}

std::optional<ApiError> check_length(size_t prompt_tokens, int32_t max_model_len) {
  if (prompt_tokens == 0) return ApiError{400, "The prompt is empty", "messages", 0};
  if (prompt_tokens < static_cast<size_t>(max_model_len)) return {};
  return ApiError{400,
                  fmt::format("This model's maximum context length is {} tokens, but the prompt "
                              "has {} tokens and at least one has to be generated",
                              max_model_len, prompt_tokens),
                  "messages", 0};
}

ApiError submit_error(const AppContext& context, const Error& error) {
  if (error.code != ErrorCode::exhausted) {
    return ApiError{http_status(error.code), error.message, "messages", 0};
  }
  if (context.is_draining) return ApiError{503, "The server is shutting down", "", 1};
  return ApiError{429, fmt::format("Too many requests: {}", error.message), "", 1};
}

// The engine's request; choice i of n draws with seed + i.
runtime::Request engine_request(const AppContext& context, const ChatRequest& chat,
                                std::vector<int32_t> prompt) {
  runtime::Request request;
  const int32_t room = context.engine.limits().max_model_len - static_cast<int32_t>(prompt.size());
  request.max_tokens = chat.max_tokens > 0 ? std::min(chat.max_tokens, room) : room;
  request.min_tokens = std::min(chat.min_tokens, request.max_tokens);
  request.prompt_tokens = std::move(prompt);
  request.sampling = chat.sampling;
  request.stop = chat.stop;
  request.include_stop_in_output = chat.include_stop_in_output;
  request.skip_special_tokens = chat.skip_special_tokens;
  if (!chat.ignore_eos) request.stop_token_ids = context.model.end_tokens;
  request.stop_token_ids.insert(request.stop_token_ids.end(), chat.stop_token_ids.begin(),
                                chat.stop_token_ids.end());
  return request;
}

std::vector<runtime::Request> engine_requests(AppContext& context, const ChatRequest& chat,
                                              std::vector<int32_t> prompt) {
  const uint64_t seed = chat.seed.has_value() ? *chat.seed : context.ids.bits();
  const runtime::Request one = engine_request(context, chat, std::move(prompt));
  std::vector<runtime::Request> requests(static_cast<size_t>(chat.n), one);
  for (size_t i = 0; i < requests.size(); ++i) requests[i].sampling.seed = seed + i;
  return requests;
}

ChatAnswer answer_shape(AppContext& context, const HttpRequest& http, const ChatRequest& chat) {
  ChatAnswer answer;
  answer.id = "chatcmpl-" + (http.has_client_id ? http.request_id : context.ids.hex32());
  answer.created = unix_seconds();
  answer.model = context.options.served_model_names[0];
  answer.system_fingerprint = "nibble-" + context.options.version;
  answer.wants_logprobs = chat.wants_logprobs;
  answer.include_reasoning = chat.include_reasoning;
  answer.include_usage = chat.include_usage;
  answer.continuous_usage = chat.continuous_usage;
  answer.user_stop_tokens = chat.stop_token_ids;
  return answer;
}

std::variant<ChatRequest, ApiError> read_chat_request(const AppContext& context,
                                                      const HttpRequest& http) {
  Result<OrderedJson> body =
      parse_ordered_json(http.body, "request body", DuplicateKeys::last_wins);
  if (!body.ok()) return ApiError{400, echo(body.error().message), "", 0};
  ChatLimits limits;
  limits.max_choices = context.options.max_choices;
  limits.max_logprobs = context.options.max_logprobs;
  limits.vocab_size = context.model.vocab_size;
  auto parsed = parse_chat_request(body.value(), context.model.defaults, limits);
  if (const auto* chat = std::get_if<ChatRequest>(&parsed)) {
    if (const auto wrong = check_model(context, chat->model)) return *wrong;
  }
  return parsed;
}

}  // namespace

Reply post_chat_completions(AppContext& context, const HttpRequest& http) {
  const auto parsed = read_chat_request(context, http);
  if (const auto* error = std::get_if<ApiError>(&parsed)) return error_response(*error);
  const ChatRequest& chat = std::get<ChatRequest>(parsed);

  const Result<std::string> prompt =
      context.model.text.render(template_input(chat, context.default_template_kwargs));
  if (!prompt.ok()) return error_response({400, prompt.error().message, "messages", 0});
  Result<std::vector<int32_t>> tokens = context.model.text.encode(prompt.value());
  if (!tokens.ok()) return error_response({400, tokens.error().message, "messages", 0});
  const auto too_long = check_length(tokens.value().size(), context.engine.limits().max_model_len);
  if (too_long.has_value()) return error_response(*too_long);

  RunOptions options;
  options.starts_in_reasoning = tokenizer::ends_inside_reasoning(prompt.value());
  if (chat.stream) options.max_buffered_bytes = context.options.max_buffered_bytes;
  Result<std::unique_ptr<GenerationRun>> run = GenerationRun::start(
      context.engine, engine_requests(context, chat, std::move(tokens).value()), options);
  if (!run.ok()) return error_response(submit_error(context, run.error()));
  const auto make = chat.stream ? make_streamed_chat_reply : make_plain_chat_reply;
  return make(std::move(run).value(), answer_shape(context, http, chat), context.model.text);
}

}  // namespace nibble::server
