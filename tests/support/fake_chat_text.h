// FakeChatText: a chat template and tokenizer of a few lines, for tests of the server.
//
// A rendered prompt is "<role>content" per message, then the generation prompt ("<think>\n" where
// the variables ask for thinking). One token per byte; the id is the byte.
#pragma once

#include "server/chat_model.h"

#include <nlohmann/json.hpp>

#include <string>
#include <vector>

namespace nibble::test {

class FakeChatText : public server::ChatText {
 public:
  Result<std::string> render(const tokenizer::ChatRequest& conversation) const override {
    std::string text;
    for (const OrderedJson& message : conversation.messages) {
      const std::string content = message.at("content").get<std::string>();
      if (content == "raise") return Error{ErrorCode::invalid_argument, "the template raised"};
      text += "<" + message.at("role").get<std::string>() + ">" + content;
    }
    if (!conversation.tools.is_null()) text += "<tools>" + dump_json(conversation.tools);
    text += conversation.variables.value("enable_thinking", false) ? "<assistant><think>\n"
                                                                   : "<assistant>";
    return text;
  }
  Result<std::vector<int32_t>> encode(std::string_view text) const override {
    std::vector<int32_t> tokens;
    for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
    return tokens;
  }
  std::string token_bytes(int32_t token) const override {
    return token >= 0 && token < 256 ? std::string(1, static_cast<char>(token)) : std::string();
  }
};

}  // namespace nibble::test
