#include "server/tokenizer_chat_text.h"

#include <fmt/format.h>

namespace nibble::server {
namespace {

// Token positions are 32-bit; Tokenizer::encode wants less than 2^31 bytes.
constexpr size_t kMaxPromptBytes = size_t{1} << 30;

}  // namespace

Result<std::string> TokenizerChatText::render(const tokenizer::ChatRequest& conversation) const {
  return template_.render(conversation);
}

Result<std::vector<int32_t>> TokenizerChatText::encode(std::string_view text) const {
  if (text.size() > kMaxPromptBytes) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the rendered prompt has {} bytes, at most {} are allowed",
                             text.size(), kMaxPromptBytes)};
  }
  return tokenizer_.encode(text, tokenizer::AddedTokens::parse);
}

std::string TokenizerChatText::token_bytes(int32_t token) const {
  if (token < 0 || token >= tokenizer_.vocab_size()) return "";
  return std::string(tokenizer_.token_bytes(token));
}

}  // namespace nibble::server
