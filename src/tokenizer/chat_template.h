// The chat template of a model: conversations to prompt text, the way transformers'
// apply_chat_template does it.
//
// Path of a request: server/openai -> messages_for_template() -> ChatTemplate::render() ->
// tokenizer. What the template itself says is its own business; this file does what transformers
// does around it (null fields dropped, reasoning fields aliased, continuing the final message). A
// template is parsed once and rendered by any number of threads.
#pragma once

#include "base/json.h"
#include "base/result.h"
#include "tokenizer/jinja/template.h"

#include <nlohmann/json.hpp>

#include <string>

namespace nibble::tokenizer {

struct ChatRequest {
  OrderedJson messages =
      OrderedJson::array();  // objects with role and content, keys in their order
  OrderedJson tools;  // null, or an array of tool objects
  OrderedJson variables = OrderedJson::object();  // chat_template_kwargs (enable_thinking ...)
  bool add_generation_prompt = false;
  /// Name of the final message's field that the model shall continue ("content",
  /// "reasoning_content"); the prompt then ends with it. Empty: none. Not together with
  /// add_generation_prompt.
  std::string continue_field;
};

class ChatTemplate {
 public:
  /// special_tokens: variables like eos_token that every render sees unless the request overrides
  /// them. Errors: what the interpreter refuses, with line and column.
  static Result<ChatTemplate> parse(std::string source,
                                    OrderedJson special_tokens = OrderedJson::object());

  /// From a model folder: chat_template.jinja, else chat_template of tokenizer_config.json (a
  /// string, or a list of named templates of which "default" is taken); special tokens from
  /// tokenizer_config.json.
  static Result<ChatTemplate> load(const std::string& model_directory);

  /// The prompt. A template that refuses the conversation (raise_exception) gives invalid_argument
  /// with the template's own words. `detail`, when not null, receives a failure of the template as
  /// data.
  Result<std::string> render(const ChatRequest& request, jinja::JinjaError* detail = nullptr) const;

  const std::string& source() const { return source_; }

 private:
  ChatTemplate(std::string source, OrderedJson special_tokens, jinja::Template compiled);

  Result<std::string> render_messages(const ChatRequest& request, const OrderedJson& messages,
                                      jinja::JinjaError* detail) const;

  std::string source_;
  OrderedJson special_tokens_;
  jinja::Template template_;
};

/// OpenAI's messages as templates want them: arguments of tool calls parsed from JSON text (empty
/// text is an empty object), role developer renamed to system. Errors name the message's index.
Result<OrderedJson> messages_for_template(OrderedJson messages);

}  // namespace nibble::tokenizer
