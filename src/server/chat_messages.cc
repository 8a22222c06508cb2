#include "server/chat_messages.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <utility>

namespace nibble::server {
namespace {

constexpr std::string_view kBillingHeader = "x-anthropic-billing-header:";

enum class PartKind { text, thinking, unsupported };

// What a content part is, and which member holds its text. Parts without `type` are told by their
// key, so the order matters: first match wins.
struct PartRule {
  std::string_view type;
  const char* key;
  PartKind kind;
};

constexpr PartRule kPartRules[] = {
    {"text", "text", PartKind::text},
    {"input_text", "text", PartKind::text},
    {"output_text", "text", PartKind::text},
    {"refusal", "refusal", PartKind::text},
    {"thinking", "thinking", PartKind::thinking},
    {"image_url", "image_url", PartKind::unsupported},
    {"image", "image", PartKind::unsupported},
    {"input_image", "image_url", PartKind::unsupported},
    {"image_embeds", "image_embeds", PartKind::unsupported},
    {"video_url", "video_url", PartKind::unsupported},
    {"video", "video", PartKind::unsupported},
    {"input_audio", "input_audio", PartKind::unsupported},
    {"audio_url", "audio_url", PartKind::unsupported},
    {"file", "file", PartKind::unsupported},
};

struct RoleRule {
  std::string_view role;
  const char* becomes;
};

constexpr RoleRule kRoleRules[] = {
    {"system", "system"},       {"developer", "system"}, {"user", "user"},
    {"assistant", "assistant"}, {"tool", "tool"},        {"function", "tool"},
};

// Text and reasoning of one message's content.
struct Content {
  std::string text;
  std::string thinking;
  bool is_null = false;
};

const PartRule* find_part_rule(const OrderedJson& part) {
  const auto type = part.find("type");
  for (const PartRule& rule : kPartRules) {
    const bool matches = type != part.end() && type->is_string()
                             ? type->get_ref<const std::string&>() == rule.type
                             : part.contains(rule.key);
    if (matches) return &rule;
  }
  return nullptr;
}

void read_part(const OrderedJson& part, const std::string& path, Content& content,
               FieldErrors& errors) {
  const PartRule* rule = part.is_object() ? find_part_rule(part) : nullptr;
  if (rule == nullptr) {
    errors.add(path, fmt::format("unknown kind of content part: {}", echo(dump_json(part))));
    return;
  }
  if (rule->kind == PartKind::unsupported) {
    errors.add(path, fmt::format("content parts of type {} are not supported by this server, only "
                                 "text is",
                                 rule->type));
    return;
  }
  const auto text = part.find(rule->key);
  if (text == part.end() || !text->is_string()) {
    errors.add(fmt::format("{}.{}", path, rule->key), "missing or no string");
    return;
  }
  (rule->kind == PartKind::text ? content.text : content.thinking) +=
      text->get_ref<const std::string&>();
}

Content read_content(const OrderedJson& message, const std::string& path, FieldErrors& errors) {
  Content content;
  const auto it = message.find("content");
  if (it == message.end() || it->is_null()) {
    content.is_null = true;
  } else if (it->is_string()) {
    content.text = it->get<std::string>();
  } else if (it->is_array()) {
    for (size_t i = 0; i < it->size(); ++i) {
      read_part((*it)[i], fmt::format("{}.content.{}", path, i), content, errors);
    }
  } else {
    errors.add(path + ".content", fmt::format("found {} ({}), expected a string or an array",
                                              echo(dump_json(*it)), it->type_name()));
  }
  return content;
}

const char* normal_role(const OrderedJson& message, const std::string& path, FieldErrors& errors) {
  const auto it = message.find("role");
  if (it != message.end() && it->is_string()) {
    for (const RoleRule& rule : kRoleRules) {
      if (it->get_ref<const std::string&>() == rule.role) return rule.becomes;
    }
  }
  errors.add(path + ".role",
             fmt::format("found {}, expected system, developer, user, assistant or tool",
                         it == message.end() ? "nothing" : echo(dump_json(*it))));
  return nullptr;
}

// Drops the billing lines some clients put into the system text: they change with every request and
// would spoil the cached prefix.
std::string without_billing_lines(const std::string& text) {
  if (text.find(kBillingHeader) == std::string::npos) return text;
  std::string out;
  size_t begin = 0;
  while (begin < text.size()) {
    const size_t newline = text.find('\n', begin);
    const size_t end = newline == std::string::npos ? text.size() : newline + 1;
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    if (!line.starts_with(kBillingHeader)) out += line;
    begin = end;
  }
  return out;
}

// OpenAI sends arguments as a JSON string, templates iterate an object.
void normalize_arguments(OrderedJson& call) {
  OrderedJson& function = call.contains("function") ? call["function"] : call;
  if (!function.is_object()) return;
  const auto it = function.find("arguments");
  if (it == function.end() || !it->is_string()) return;
  const std::string text = it->get<std::string>();
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    *it = OrderedJson::object();
    return;
  }
  Result<OrderedJson> parsed = parse_ordered_json(text, "arguments", DuplicateKeys::last_wins);
  if (parsed.ok() && parsed.value().is_object()) *it = std::move(parsed).value();
}

void normalize_tool_calls(OrderedJson& message, const std::string& path, FieldErrors& errors) {
  const auto it = message.find("tool_calls");
  if (it == message.end()) return;
  if (it->is_null() || (it->is_array() && it->empty())) {
    message.erase("tool_calls");
    return;
  }
  if (!it->is_array()) {
    errors.add(path + ".tool_calls", "expected an array");
    return;
  }
  for (size_t i = 0; i < it->size(); ++i) {
    OrderedJson& call = (*it)[i];
    const OrderedJson* function = &call;
    if (call.is_object() && call.contains("function")) function = &call["function"];
    const bool is_named =
        function->is_object() && function->contains("name") && (*function)["name"].is_string();
    if (!is_named) {
      errors.add(fmt::format("{}.tool_calls.{}.function.name", path, i), "missing or no string");
      continue;
    }
    normalize_arguments(call);
  }
}

// Offers the reasoning under both names in use, whatever name the client sent it by; where several
// are given reasoning_content counts.
void unify_reasoning(OrderedJson& message, const std::string& thinking) {
  std::string reasoning = thinking;
  bool is_present = !thinking.empty();
  for (const char* key : {"reasoning", "thinking", "reasoning_content"}) {
    const auto it = message.find(key);
    if (it == message.end()) continue;
    if (it->is_string()) {
      reasoning = it->get<std::string>();
      is_present = true;
    }
    message.erase(key);
  }
  if (!is_present) return;
  message["reasoning"] = reasoning;
  message["reasoning_content"] = reasoning;
}

OrderedJson normalize_one(const OrderedJson& message, const std::string& path,
                          FieldErrors& errors) {
  if (!message.is_object()) {
    errors.add(path, "expected an object");
    return OrderedJson::object();
  }
  const char* role = normal_role(message, path, errors);
  Content content = read_content(message, path, errors);
  if (role == nullptr) return OrderedJson::object();
  OrderedJson out = message;
  const std::string_view is(role);
  out["role"] = role;
  if (content.is_null && (is == "system" || is == "user")) {
    errors.add(path + ".content", "missing");
  }
  if (is == "system") content.text = without_billing_lines(content.text);
  out["content"] = content.text;
  if (is == "assistant") {
    normalize_tool_calls(out, path, errors);
    unify_reasoning(out, content.thinking);
  }
  return out;
}

bool has_role(const OrderedJson& message, std::string_view role) {
  return message["role"].get_ref<const std::string&>() == role;
}

void append_text(OrderedJson& message, const std::string& text) {
  const std::string old = message["content"].get<std::string>();
  message["content"] = old.empty() ? text : old + "\n\n" + text;
}

// Templates allow one system message, at the front. A later one becomes part of the neighbouring
// user turn where it stands: moving it to the front would change token 0 and lose the cached
// prefix.
OrderedJson arrange_system_messages(OrderedJson messages) {
  OrderedJson out = OrderedJson::array();
  std::string reminder;  // waits for the next message
  bool is_leading = true;
  const auto flush_as_user = [&out, &reminder] {
    if (reminder.empty()) return;
    out.push_back(OrderedJson{{"role", "user"}, {"content", reminder}});
    reminder.clear();
  };
  for (OrderedJson& message : messages) {
    const bool is_system = has_role(message, "system");
    if (is_system && is_leading && !out.empty()) {
      append_text(out.back(), message["content"].get<std::string>());
    } else if (is_system && !is_leading) {
      const std::string block = fmt::format("<system-reminder>\n{}\n</system-reminder>",
                                            message["content"].get_ref<const std::string&>());
      if (has_role(out.back(), "user") && reminder.empty()) {
        append_text(out.back(), block);
      } else {
        reminder += (reminder.empty() ? "" : "\n\n") + block;
      }
    } else {
      is_leading = is_leading && is_system;
      if (!reminder.empty() && has_role(message, "user")) {
        message["content"] = reminder + "\n\n" + message["content"].get<std::string>();
        reminder.clear();
      }
      flush_as_user();
      out.push_back(std::move(message));
    }
  }
  flush_as_user();
  return out;
}

// Templates of this family raise without a user message; tool-only continuations have none.
void ensure_user_message(OrderedJson& messages) {
  for (const OrderedJson& message : messages) {
    if (has_role(message, "user")) return;
  }
  const bool has_system = !messages.empty() && has_role(messages[0], "system");
  const OrderedJson user = {{"role", "user"}, {"content", ""}};
  messages.insert(messages.begin() + (has_system ? 1 : 0), user);
}

}  // namespace

OrderedJson normalize_messages(const OrderedJson& messages, FieldErrors& errors) {
  OrderedJson normal = OrderedJson::array();
  bool all_ok = true;
  for (size_t i = 0; i < messages.size(); ++i) {
    OrderedJson one = normalize_one(messages[i], fmt::format("messages.{}", i), errors);
    all_ok = all_ok && one.contains("role");
    normal.push_back(std::move(one));
  }
  if (!all_ok) return OrderedJson::array();
  normal = arrange_system_messages(std::move(normal));
  ensure_user_message(normal);
  return normal;
}

}  // namespace nibble::server
