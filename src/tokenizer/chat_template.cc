// Rendering of conversations, and what surrounds the template.
#include "tokenizer/chat_template.h"

#include "base/file.h"
#include "tokenizer/jinja/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

namespace nibble::tokenizer {
namespace {

// Names a message's reasoning is passed under; the first one present wins (transformers 5.23).
constexpr std::array<const char*, 3> kReasoningFields = {"reasoning_content", "thinking",
                                                         "reasoning"};

// Appended to the final message to find where it ends in the rendered text. The blank shows whether
// the template trims.
constexpr std::string_view kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

Error invalid(std::string message) {
  return Error{ErrorCode::invalid_argument, std::move(message)};
}

bool is_reasoning_field(const std::string& name) {
  return std::find(kReasoningFields.begin(), kReasoningFields.end(), name) !=
         kReasoningFields.end();
}

OrderedJson without_nulls(const OrderedJson& message) {
  OrderedJson kept = OrderedJson::object();
  for (auto it = message.begin(); it != message.end(); ++it) {
    if (!it.value().is_null()) kept[it.key()] = it.value();
  }
  return kept;
}

// Fills reasoning_content from older names for it, and thinking for templates that read that. Key
// order as in {"thinking": r, **message, "reasoning_content": r}.
OrderedJson with_reasoning_fields(const OrderedJson& message) {
  const OrderedJson* reasoning = nullptr;
  for (const char* field : kReasoningFields) {
    const auto found = message.find(field);
    if (found != message.end() && reasoning == nullptr) reasoning = &*found;
  }
  if (reasoning == nullptr) return message;
  OrderedJson filled = OrderedJson::object();
  filled["thinking"] = *reasoning;
  for (auto it = message.begin(); it != message.end(); ++it) filled[it.key()] = it.value();
  filled["reasoning_content"] = *reasoning;
  return filled;
}

Result<OrderedJson> prepared_messages(const ChatRequest& request) {
  if (!request.messages.is_array() || request.messages.empty()) {
    return invalid(
        "Cannot apply chat template to an empty conversation. Provide at least one message.");
  }
  OrderedJson messages = OrderedJson::array();
  for (const OrderedJson& message : request.messages) {
    if (!message.is_object()) {
      return invalid(fmt::format("messages[{}]: found {}, expected an object", messages.size(),
                                 message.type_name()));
    }
    messages.push_back(with_reasoning_fields(without_nulls(message)));
  }
  return messages;
}

Result<void> check_request(const ChatRequest& request) {
  if (!request.continue_field.empty() && request.add_generation_prompt) {
    return invalid(
        "continue_final_message and add_generation_prompt are not compatible: one continues the "
        "final message, the other starts a new one");
  }
  const bool tools_fit = request.tools.is_null() ||
                         (request.tools.is_array() &&
                          std::all_of(request.tools.begin(), request.tools.end(),
                                      [](const OrderedJson& tool) { return tool.is_object(); }));
  if (!tools_fit) return invalid("tools: expected an array of objects");
  if (!request.variables.is_object() && !request.variables.is_null()) {
    return invalid("chat_template_kwargs: expected an object");
  }
  for (const char* name : {"messages", "tools", "add_generation_prompt"}) {
    if (request.variables.contains(name)) {
      return invalid(fmt::format("chat_template_kwargs: {} cannot be set here", name));
    }
  }
  return {};
}

// Appends the tag to the text that is to be continued, and returns that text.
Result<std::string> mark_final_message(OrderedJson& message, const std::string& field,
                                       const std::string& source) {
  const auto found = message.find(field);
  if (found == message.end()) {
    return invalid(fmt::format(
        "continue_final_message is set but the final message has no \"{}\" to continue", field));
  }
  const OrderedJson final_value = *found;
  std::vector<std::string> fields = {field};
  if (is_reasoning_field(field)) {
    // Reasoning stands under several names; whichever one the template reads is tagged.
    fields.clear();
    for (const char* name : kReasoningFields) {
      if (message.contains(name) && message[name] == final_value) fields.emplace_back(name);
    }
  }
  const bool is_read = std::any_of(fields.begin(), fields.end(), [&](const std::string& name) {
    return source.find(name) != std::string::npos;
  });
  if (!is_read) {
    return invalid(fmt::format(
        "continue_final_message is set to \"{}\", which the chat template does not read", field));
  }
  if (final_value.is_array()) {
    OrderedJson& parts = message[field];
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      if (!part->is_object() || !part->contains("text") || !(*part)["text"].is_string()) continue;
      const std::string text = (*part)["text"].get<std::string>();
      (*part)["text"] = text + std::string(kContinueTag);
      return text;
    }
    return invalid("continue_final_message is set but the final message has no text to continue");
  }
  if (!final_value.is_string()) {
    return invalid(
        fmt::format("continue_final_message: {} of the final message is no text", field));
  }
  const std::string text = final_value.get<std::string>();
  for (const std::string& name : fields) message[name] = text + std::string(kContinueTag);
  return text;
}

// Cuts the rendered text where the final message ends.
Result<std::string> cut_at_tag(const std::string& rendered, const std::string& final_text) {
  const std::string_view bare_tag = kContinueTag.substr(0, kContinueTag.size() - 1);
  const size_t at = rendered.rfind(bare_tag);
  const std::string_view wanted = jinja::strip(final_text, jinja::Side::both);
  if (at == std::string::npos || rendered.find(wanted) == std::string::npos) {
    return invalid(
        "continue_final_message is set but the final message does not appear in the chat after "
        "applying the chat template");
  }
  const std::string kept = rendered.substr(0, at);
  if (rendered.compare(at, kContinueTag.size(), kContinueTag) == 0) return kept;
  // The template trims the message, so blanks in front of the tag would have gone too.
  return std::string(jinja::strip(kept, jinja::Side::right));
}

Result<std::string> template_of_config(const OrderedJson& config, const std::string& path) {
  const auto found = config.find("chat_template");
  if (found == config.end() || found->is_null()) {
    return Error{ErrorCode::not_found,
                 fmt::format("{}: no chat_template, and no chat_template.jinja beside it", path)};
  }
  if (found->is_string()) return found->get<std::string>();
  if (found->is_array()) {
    for (const OrderedJson& entry : *found) {
      const bool is_default = entry.is_object() && entry.value("name", "") == "default" &&
                              entry.contains("template") && entry["template"].is_string();
      if (is_default) return entry["template"].get<std::string>();
    }
  }
  return Error{ErrorCode::unsupported,
               fmt::format("{}: chat_template: expected a text or a list with a template named "
                           "default",
                           path)};
}

// eos_token and its like: a text, or an object with the text as content.
OrderedJson special_tokens_of(const OrderedJson& config) {
  OrderedJson tokens = OrderedJson::object();
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    const auto found = config.find(name);
    if (found == config.end()) continue;
    if (found->is_string()) tokens[name] = *found;
    const bool is_object = found->is_object() && found->contains("content");
    if (is_object && (*found)["content"].is_string()) tokens[name] = (*found)["content"];
  }
  return tokens;
}

Result<void> parse_call_arguments(OrderedJson& call, const std::string& where) {
  OrderedJson& target = call.is_object() && call.contains("function") ? call["function"] : call;
  if (!target.is_object() || !target.contains("arguments")) return {};
  OrderedJson& arguments = target["arguments"];
  if (!arguments.is_string()) return {};
  const std::string text = arguments.get<std::string>();
  if (jinja::strip(text, jinja::Side::both).empty()) {
    arguments = OrderedJson::object();
    return {};
  }
  auto parsed = parse_ordered_json(text, where);
  if (!parsed.ok()) return invalid(parsed.error().message);
  if (!parsed.value().is_object()) {
    return invalid(
        fmt::format("{}: found {}, expected a JSON object", where, parsed.value().type_name()));
  }
  arguments = std::move(parsed).value();
  return {};
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, OrderedJson special_tokens, jinja::Template compiled)
    : source_(std::move(source)),
      special_tokens_(std::move(special_tokens)),
      template_(std::move(compiled)) {}

Result<ChatTemplate> ChatTemplate::parse(std::string source, OrderedJson special_tokens) {
  auto compiled = jinja::Template::parse(source);
  if (!compiled.ok()) return compiled.error().with("chat template");
  return ChatTemplate(std::move(source), std::move(special_tokens), std::move(compiled).value());
}

Result<ChatTemplate> ChatTemplate::load(const std::string& model_directory) {
  const std::string config_path = model_directory + "/tokenizer_config.json";
  const std::string template_path = model_directory + "/chat_template.jinja";
  OrderedJson config = OrderedJson::object();
  if (file_exists(config_path)) {
    NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(config_path));
    NIBBLE_ASSIGN_OR_RETURN(config, parse_ordered_json(text, config_path));
    if (!config.is_object()) {
      return Error{ErrorCode::corrupt, fmt::format("{}: expected a JSON object", config_path)};
    }
  }
  std::string source;
  if (file_exists(template_path)) {
    NIBBLE_ASSIGN_OR_RETURN(source, read_file(template_path));
  } else {
    NIBBLE_ASSIGN_OR_RETURN(source, template_of_config(config, config_path));
  }
  auto loaded = parse(std::move(source), special_tokens_of(config));
  if (!loaded.ok()) return loaded.error().with(model_directory);
  return loaded;
}

Result<std::string> ChatTemplate::render_messages(const ChatRequest& request,
                                                  const OrderedJson& messages,
                                                  jinja::JinjaError* detail) const {
  const OrderedJson documents;
  const OrderedJson generates = request.add_generation_prompt;
  // Later entries override earlier ones.
  std::vector<std::pair<std::string, const OrderedJson*>> variables = {{"documents", &documents}};
  for (auto it = special_tokens_.begin(); it != special_tokens_.end(); ++it) {
    variables.emplace_back(it.key(), &it.value());
  }
  for (auto it = request.variables.begin(); it != request.variables.end(); ++it) {
    variables.emplace_back(it.key(), &it.value());
  }
  variables.emplace_back("messages", &messages);
  variables.emplace_back("tools", &request.tools);
  variables.emplace_back("add_generation_prompt", &generates);
  jinja::RenderOutcome outcome = template_.render(variables);
  if (!outcome.error) return std::move(outcome.text);
  if (detail != nullptr) *detail = *outcome.error;
  const bool spoken = outcome.error->kind == jinja::ErrorKind::template_error;
  return invalid(spoken ? outcome.error->to_string()
                        : "chat template: " + outcome.error->to_string());
}

Result<std::string> ChatTemplate::render(const ChatRequest& request,
                                         jinja::JinjaError* detail) const {
  NIBBLE_RETURN_IF_ERROR(check_request(request));
  NIBBLE_ASSIGN_OR_RETURN(OrderedJson messages, prepared_messages(request));
  if (request.continue_field.empty()) return render_messages(request, messages, detail);
  NIBBLE_ASSIGN_OR_RETURN(const std::string final_text,
                          mark_final_message(messages.back(), request.continue_field, source_));
  NIBBLE_ASSIGN_OR_RETURN(const std::string rendered, render_messages(request, messages, detail));
  return cut_at_tag(rendered, final_text);
}

Result<OrderedJson> messages_for_template(OrderedJson messages) {
  if (!messages.is_array()) return invalid("messages: expected an array");
  for (size_t i = 0; i < messages.size(); ++i) {
    OrderedJson& message = messages[i];
    if (!message.is_object()) {
      return invalid(
          fmt::format("messages[{}]: found {}, expected an object", i, message.type_name()));
    }
    if (message.contains("role") && message["role"] == "developer") message["role"] = "system";
    if (!message.contains("tool_calls") || !message["tool_calls"].is_array()) continue;
    OrderedJson& calls = message["tool_calls"];
    for (size_t k = 0; k < calls.size(); ++k) {
      NIBBLE_RETURN_IF_ERROR(parse_call_arguments(
          calls[k], fmt::format("messages[{}].tool_calls[{}].arguments", i, k)));
    }
  }
  return messages;
}

}  // namespace nibble::tokenizer
