#include "server/openai_chat.h"

#include "server/chat_messages.h"
#include "server/request_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>

namespace nibble::server {
namespace {

constexpr float kMinTemperature = 0.01f;  // below, logits overflow before they sharpen
constexpr float kGreedyTemperature = 1e-5f;
constexpr float kMaxBias = 100.0f;
constexpr size_t kMaxStopBytes = 1024;
constexpr double kMaxInt32 = 2147483647.0;
constexpr FieldRange kAnyLength = {};

using Sink = FieldSink;
using runtime::SamplingParams;

float float_value(const OrderedJson& value) {
  return value.get<float>();
}

int32_t int32_value(const OrderedJson& value) {
  return static_cast<int32_t>(int_value(value));
}

// Actions that only store the value in one member.
template <auto kMember>
void set_bool(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.*kMember = value.get<bool>();
}
template <auto kMember>
void set_int(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.*kMember = int32_value(value);
}
template <auto kMember>
void set_string(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.*kMember = string_value(value);
}
template <auto kMember>
void set_json(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.*kMember = value;
}
template <auto kMember>
void set_float(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.sampling.*kMember = float_value(value);
}

void set_messages(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  r.messages = normalize_messages(value, sink.errors);
}

void set_top_k(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.sampling.top_k = std::max(0, int32_value(value));
}

void set_top_logprobs(ChatRequest& r, const OrderedJson& value, const Sink&) {
  r.sampling.top_logprobs = int32_value(value);
}

void set_seed(ChatRequest& r, const OrderedJson& value, const Sink&) {
  if (int_value(value) != -1) r.seed = static_cast<uint64_t>(int_value(value));
}

void set_stop_token_ids(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  r.stop_token_ids = token_list(value, sink);
}

void set_temperature(ChatRequest& r, const OrderedJson& value, const Sink&) {
  const float t = float_value(value);
  r.sampling.temperature = t < kGreedyTemperature ? 0.0f : std::max(t, kMinTemperature);
}

void set_logit_bias(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  for (const auto& [key, bias] : value.items()) {
    int32_t token = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, token);
    if (parsed.ec != std::errc() || parsed.ptr != end || token < 0 || !bias.is_number()) {
      sink.error(fmt::format("found \"{}\": {}, expected a token id and a number", echo(key),
                             echo(dump_json(bias))));
      return;
    }
    r.sampling.logit_bias.emplace_back(token, std::clamp(float_value(bias), -kMaxBias, kMaxBias));
  }
}

void set_stop(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  if (value.is_string()) {
    r.stop = {string_value(value)};
  } else if (value.is_array()) {
    r.stop = string_list(value, sink);
  } else {
    sink.error(
        fmt::format("found {}, expected a string or an array of strings", value.type_name()));
  }
  if (r.stop.size() > 64)
    sink.error(fmt::format("has {} strings, expected at most 64", r.stop.size()));
  for (const std::string& stop : r.stop) {
    if (stop.empty() || stop.size() > kMaxStopBytes) {
      sink.error(
          fmt::format("a stop string has {} bytes, expected 1 to {}", stop.size(), kMaxStopBytes));
    }
  }
}

void set_stream_options(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  for (const char* key : {"include_usage", "continuous_usage_stats"}) {
    const auto it = value.find(key);
    if (it == value.end() || it->is_null()) continue;
    if (!it->is_boolean()) {
      sink.errors.add(fmt::format("{}.{}", sink.name, key), "expected true or false");
      continue;
    }
    (std::string_view(key) == "include_usage" ? r.include_usage : r.continuous_usage) =
        it->get<bool>();
  }
}

bool is_function_name(const OrderedJson& name) {
  if (!name.is_string()) return false;
  const std::string& text = name.get_ref<const std::string&>();
  const auto is_allowed = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || c == '-';
  };
  return !text.empty() && text.size() <= 128 && std::all_of(text.begin(), text.end(), is_allowed);
}

void set_tools(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  OrderedJson tools = OrderedJson::array();
  std::set<std::string> names;
  for (size_t i = 0; i < value.size(); ++i) {
    const std::string path = fmt::format("tools.{}", i);
    const OrderedJson& tool = value[i];
    if (!tool.is_object()) {
      sink.errors.add(path, "expected an object");
      continue;
    }
    // Hosted tools (web search and the like) do not exist here; the model is not told of them.
    if (tool.value("type", OrderedJson("function")) != "function") continue;
    const OrderedJson function = tool.value("function", OrderedJson::object());
    if (!function.is_object() || !is_function_name(function.value("name", OrderedJson()))) {
      sink.errors.add(path + ".function.name", "expected 1 to 128 of A-Z a-z 0-9 _ . -");
      continue;
    }
    const std::string name = function["name"].get<std::string>();
    if (!names.insert(name).second) {
      sink.errors.add(path + ".function.name", fmt::format("\"{}\" appears twice", name));
    }
    tools.push_back(tool);
  }
  if (!tools.empty()) r.tools = std::move(tools);
}

void check_tool_choice(ChatRequest&, const OrderedJson& value, const Sink& sink) {
  if (value == "auto" || value == "none") return;
  sink.error(fmt::format("found {}: only \"auto\" and \"none\" are supported by this server",
                         echo(dump_json(value))));
}

void check_response_format(ChatRequest&, const OrderedJson& value, const Sink& sink) {
  if (value.contains("type") && value["type"] == "text") return;
  sink.error(fmt::format("found {}: only {{\"type\":\"text\"}} is supported by this server",
                         echo(dump_json(value))));
}

void check_modalities(ChatRequest&, const OrderedJson& value, const Sink& sink) {
  if (value == OrderedJson::array({"text"})) return;
  sink.error(fmt::format("found {}, expected [\"text\"]", echo(dump_json(value))));
}

void set_reasoning_effort(ChatRequest& r, const OrderedJson& value, const Sink& sink) {
  r.reasoning_effort = string_value(value);
  for (const char* known : {"none", "minimal", "low", "medium", "high", "xhigh", "max"}) {
    if (r.reasoning_effort == known) return;
  }
  sink.error(fmt::format("found {}, expected none, minimal, low, medium, high, xhigh or max",
                         echo(dump_json(value))));
}

void refuse(ChatRequest&, const OrderedJson& value, const Sink& sink) {
  refuse_if_set(value, sink);
}

void refuse_unless_minus_one(ChatRequest&, const OrderedJson& value, const Sink& sink) {
  if (value == -1) return;
  sink.error(
      fmt::format("found {}: this field is not supported by this server", echo(dump_json(value))));
}

constexpr Field<ChatRequest> kFields[] = {
    {{"messages", FieldType::array, {1, 10000}}, set_messages},
    {{"model", FieldType::string}, set_string<&ChatRequest::model>},
    // Length. max_completion_tokens is read later and so wins over max_tokens.
    {{"max_tokens", FieldType::integer, {1, kMaxInt32}}, set_int<&ChatRequest::max_tokens>},
    {{"max_completion_tokens", FieldType::integer, {1, kMaxInt32}},
     set_int<&ChatRequest::max_tokens>},
    {{"min_tokens", FieldType::integer, {0, kMaxInt32}}, set_int<&ChatRequest::min_tokens>},
    {{"ignore_eos", FieldType::boolean}, set_bool<&ChatRequest::ignore_eos>},
    // Sampling.
    {{"temperature", FieldType::number, {0, 2}}, set_temperature},
    {{"top_p", FieldType::number, {0, 1, true}}, set_float<&SamplingParams::top_p>},
    {{"top_k", FieldType::integer, {-1, kMaxInt32}}, set_top_k},
    {{"min_p", FieldType::number, {0, 1}}, set_float<&SamplingParams::min_p>},
    {{"repetition_penalty", FieldType::number, {0, 1e6, true}},
     set_float<&SamplingParams::repetition_penalty>},
    {{"presence_penalty", FieldType::number, {-2, 2}},
     set_float<&SamplingParams::presence_penalty>},
    {{"frequency_penalty", FieldType::number, {-2, 2}},
     set_float<&SamplingParams::frequency_penalty>},
    {{"logit_bias", FieldType::object}, set_logit_bias},
    {{"seed", FieldType::integer}, set_seed},
    {{"n", FieldType::integer, {1, kMaxInt32}}, set_int<&ChatRequest::n>},
    {{"best_of", FieldType::integer, {1, kMaxInt32}}, nullptr},
    {{"use_beam_search", FieldType::boolean}, refuse},
    {{"allowed_token_ids", FieldType::array}, refuse},
    {{"bad_words", FieldType::array}, refuse},
    // Stopping.
    {{"stop", FieldType::any}, set_stop},
    {{"stop_token_ids", FieldType::array, {0, 64}}, set_stop_token_ids},
    {{"include_stop_str_in_output", FieldType::boolean},
     set_bool<&ChatRequest::include_stop_in_output>},
    {{"skip_special_tokens", FieldType::boolean}, set_bool<&ChatRequest::skip_special_tokens>},
    {{"repetition_detection", FieldType::object}, refuse},
    // Log probabilities.
    {{"logprobs", FieldType::boolean}, set_bool<&ChatRequest::wants_logprobs>},
    {{"top_logprobs", FieldType::integer, {-1, kMaxInt32}}, set_top_logprobs},
    {{"prompt_logprobs", FieldType::any}, refuse},
    {{"logprob_token_ids", FieldType::array}, refuse},
    // Streaming.
    {{"stream", FieldType::boolean}, set_bool<&ChatRequest::stream>},
    {{"stream_options", FieldType::object}, set_stream_options},
    {{"stream_interval", FieldType::integer, {1, kMaxInt32}}, nullptr},
    // Tools and formats.
    {{"tools", FieldType::array, {0, 512}}, set_tools},
    {{"tool_choice", FieldType::any}, check_tool_choice},
    {{"parallel_tool_calls", FieldType::boolean}, nullptr},
    {{"functions", FieldType::array}, refuse},
    {{"function_call", FieldType::any}, refuse},
    {{"response_format", FieldType::object}, check_response_format},
    {{"structured_outputs", FieldType::object}, refuse},
    {{"guided_json", FieldType::any}, refuse},
    {{"guided_regex", FieldType::any}, refuse},
    {{"guided_choice", FieldType::any}, refuse},
    {{"guided_grammar", FieldType::any}, refuse},
    // Template and reasoning.
    {{"reasoning_effort", FieldType::string}, set_reasoning_effort},
    {{"include_reasoning", FieldType::boolean}, set_bool<&ChatRequest::include_reasoning>},
    {{"thinking_token_budget", FieldType::integer}, refuse_unless_minus_one},
    {{"chat_template_kwargs", FieldType::object}, set_json<&ChatRequest::template_kwargs>},
    {{"chat_template", FieldType::string}, refuse},
    {{"add_generation_prompt", FieldType::boolean}, set_bool<&ChatRequest::add_generation_prompt>},
    {{"continue_final_message", FieldType::boolean}, refuse},
    {{"add_special_tokens", FieldType::boolean}, nullptr},
    {{"documents", FieldType::array, kAnyLength}, set_json<&ChatRequest::documents>},
    {{"echo", FieldType::boolean}, refuse},
    {{"truncate_prompt_tokens", FieldType::integer}, refuse_unless_minus_one},
    {{"truncation_side", FieldType::string}, nullptr},
    // Hints and labels: accepted, no effect.
    {{"cache_prompt", FieldType::boolean}, nullptr},
    {{"cache_salt", FieldType::string, {1, 128}}, nullptr},
    {{"priority", FieldType::integer}, nullptr},
    {{"request_id", FieldType::string}, nullptr},
    {{"user", FieldType::string}, nullptr},
    {{"metadata", FieldType::object}, nullptr},
    {{"store", FieldType::boolean}, nullptr},
    {{"service_tier", FieldType::string}, nullptr},
    {{"spaces_between_special_tokens", FieldType::boolean}, nullptr},
    // Not here.
    {{"return_token_ids", FieldType::boolean}, refuse},
    {{"return_tokens_as_token_ids", FieldType::boolean}, refuse},
    {{"return_prompt_text", FieldType::boolean}, refuse},
    {{"mm_processor_kwargs", FieldType::object}, refuse},
    {{"media_io_kwargs", FieldType::object}, refuse},
    {{"modalities", FieldType::array}, check_modalities},
    {{"audio", FieldType::any}, refuse},
    {{"prediction", FieldType::any}, refuse},
    {{"web_search_options", FieldType::any}, refuse},
};

void check_token_ids(const ChatRequest& r, int32_t vocab_size, FieldErrors& errors) {
  const auto check = [&](const char* field, int32_t token) {
    if (token < vocab_size) return;
    errors.add(field, fmt::format("token id {} is outside of the vocabulary (0 to {})", token,
                                  vocab_size - 1));
  };
  for (const auto& [token, bias] : r.sampling.logit_bias) check("logit_bias", token);
  for (const int32_t token : r.stop_token_ids) check("stop_token_ids", token);
}

// Rules about more than one field.
void check_combinations(ChatRequest& r, const OrderedJson& body, const ChatLimits& limits,
                        FieldErrors& errors) {
  const auto is_set = [&body](const char* key) {
    const auto it = body.find(key);
    return it != body.end() && !it->is_null();
  };
  if (!is_set("messages")) errors.add("messages", "missing, expected an array of messages");
  if (r.n > limits.max_choices) {
    errors.add("n", fmt::format("found {}, expected at most {}", r.n, limits.max_choices));
  }
  if (is_set("best_of") && body["best_of"] != r.n) {
    errors.add("best_of", fmt::format("found {}, expected the value of n ({})",
                                      echo(dump_json(body["best_of"])), r.n));
  }
  if (is_set("stream_options") && !r.stream) {
    errors.add("stream_options", "only allowed together with \"stream\": true");
  }
  if (is_set("tool_choice") && r.tools.is_null() && body["tool_choice"] != "none") {
    errors.add("tool_choice", "only allowed together with tools");
  }
  if (r.min_tokens > 0 && r.max_tokens > 0 && r.min_tokens > r.max_tokens) {
    errors.add("min_tokens", fmt::format("found {}, expected at most max_tokens ({})", r.min_tokens,
                                         r.max_tokens));
  }
  const int32_t top = r.sampling.top_logprobs;
  if (is_set("top_logprobs") && !r.wants_logprobs && top != 0) {
    errors.add("top_logprobs", "only allowed together with \"logprobs\": true");
  }
  if (is_set("top_logprobs") && (top < 0 || top > limits.max_logprobs)) {
    errors.add("top_logprobs", fmt::format("found {}, expected 0 to {}", top, limits.max_logprobs));
  }
  check_token_ids(r, limits.vocab_size, errors);
}

}  // namespace

std::variant<ChatRequest, ApiError> parse_chat_request(const OrderedJson& body,
                                                       const GenerationDefaults& defaults,
                                                       const ChatLimits& limits) {
  ChatRequest request;
  FieldErrors errors;
  if (!body.is_object()) {
    errors.add("", fmt::format("the body is {}, expected a JSON object", body.type_name()));
    return errors.to_api_error();
  }
  request.sampling.temperature = defaults.temperature;
  request.sampling.top_p = defaults.top_p;
  request.sampling.top_k = defaults.top_k;
  request.sampling.min_p = defaults.min_p;
  request.sampling.repetition_penalty = defaults.repetition_penalty;
  request.max_tokens = defaults.max_tokens;
  request.sampling.top_logprobs = 0;
  read_fields<ChatRequest>(body, kFields, request, errors);
  check_combinations(request, body, limits, errors);
  if (!errors.empty()) return errors.to_api_error();
  if (!request.wants_logprobs) request.sampling.top_logprobs = -1;
  return request;
}

tokenizer::ChatRequest template_input(const ChatRequest& request,
                                      const OrderedJson& default_kwargs) {
  tokenizer::ChatRequest input;
  input.messages = request.messages;
  input.tools = request.tools;
  input.add_generation_prompt = request.add_generation_prompt;
  input.variables = default_kwargs;
  if (!request.reasoning_effort.empty()) {
    input.variables["reasoning_effort"] = request.reasoning_effort;
    input.variables["enable_thinking"] = request.reasoning_effort != "none";
  }
  for (const auto& [key, value] : request.template_kwargs.items()) {
    // The conversation itself is no keyword argument.
    if (key != "messages" && key != "tools" && key != "add_generation_prompt") {
      input.variables[key] = value;
    }
  }
  if (!request.documents.is_null()) input.variables["documents"] = request.documents;
  return input;
}

}  // namespace nibble::server
