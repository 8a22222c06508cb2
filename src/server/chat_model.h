// The served model as the server sees it: text in, tokens out, defaults.
//
// ChatText is the seam to tokenizer/ (tokenizer_chat_text.h implements it; tests use a small fake).
// The context limit is the engine's (EngineLimits). The server never sees a tensor.
#pragma once

#include "base/result.h"
#include "tokenizer/chat_template.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::server {

/// Chat template and tokenizer. Every function is safe from any thread.
class ChatText {
 public:
  virtual ~ChatText() = default;
  /// Renders the chat template. Error: the template raised, with its text.
  virtual Result<std::string> render(const tokenizer::ChatRequest& conversation) const = 0;
  /// Token ids of a rendered prompt; added tokens ("<|im_end|>") are recognised.
  virtual Result<std::vector<int32_t>> encode(std::string_view text) const = 0;
  /// The raw bytes behind one token, perhaps an incomplete character; empty for an unknown id.
  virtual std::string token_bytes(int32_t token) const = 0;
};

/// Sampling defaults from generation_config.json; neutral where it is silent.
struct GenerationDefaults {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int32_t top_k = 0;  // 0: off
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
  int32_t max_tokens = 0;  // 0: the rest of the context
};

struct ChatModel {
  const ChatText& text;  // used, outlives the server
  GenerationDefaults defaults;
  std::vector<int32_t> end_tokens;  // generation_config eos_token_id and the tokenizer's eos
  int32_t vocab_size = 0;  // ids below have text: legal in logit_bias and stop_token_ids
  std::string source;  // directory or org/name, shown as `root` by /v1/models
  std::string default_template_kwargs = "{}";  // JSON object, under the request's own
};

}  // namespace nibble::server
