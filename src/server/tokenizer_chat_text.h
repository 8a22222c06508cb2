// TokenizerChatText: the model's own tokenizer and chat template behind the server's ChatText.
#pragma once

#include "server/chat_model.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::server {

class TokenizerChatText : public ChatText {
 public:
  /// Both are used and outlive this object.
  TokenizerChatText(const tokenizer::Tokenizer& tokenizer, const tokenizer::ChatTemplate& chat)
      : tokenizer_(tokenizer), template_(chat) {}

  Result<std::string> render(const tokenizer::ChatRequest& conversation) const override;
  Result<std::vector<int32_t>> encode(std::string_view text) const override;
  std::string token_bytes(int32_t token) const override;

 private:
  const tokenizer::Tokenizer& tokenizer_;
  const tokenizer::ChatTemplate& template_;
};

}  // namespace nibble::server
