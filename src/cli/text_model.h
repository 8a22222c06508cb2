// TextModel: a ModelSession with its text side and a running engine: what serve and chat need.
#pragma once

#include "base/result.h"
#include "cli/model_session.h"
#include "runtime/engine.h"
#include "server/chat_model.h"
#include "server/tokenizer_chat_text.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/tokenizer.h"

#include <memory>
#include <string>

namespace nibble::cli {

class TextModel {
 public:
  /// Loads tokenizer and chat template first, so that a bad file is found before the weights are
  /// read.
  static Result<std::unique_ptr<TextModel>> open(const ModelOptions& options,
                                                 const SessionNeeds& needs);

  ModelSession& session() { return *session_; }
  runtime::Engine& engine() { return *engine_; }
  const server::ChatText& text() const { return *text_; }
  /// Defaults from generation_config.json and the tokenizer.
  server::ChatModel chat_model() const;

 private:
  TextModel(ModelOptions options, tokenizer::Tokenizer tokenizer,
            tokenizer::ChatTemplate chat_template);

  ModelOptions options_;
  tokenizer::Tokenizer tokenizer_;
  tokenizer::ChatTemplate template_;
  std::unique_ptr<server::TokenizerChatText> text_;
  server::GenerationDefaults defaults_;
  std::vector<int32_t> end_tokens_;
  std::unique_ptr<ModelSession> session_;
  std::unique_ptr<runtime::Engine> engine_;  // last: stops before what it uses goes
};

}  // namespace nibble::cli
