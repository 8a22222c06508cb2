#include "cli/text_model.h"

#include "formats/generation_config.h"

#include <algorithm>
#include <utility>

namespace nibble::cli {
namespace {

server::GenerationDefaults defaults_of(const formats::GenerationConfig& config) {
  server::GenerationDefaults out;
  out.temperature = static_cast<float>(config.temperature.value_or(1.0));
  if (config.do_sample == false) out.temperature = 0;
  out.top_p = static_cast<float>(config.top_p.value_or(1.0));
  out.top_k = static_cast<int32_t>(config.top_k.value_or(0));
  out.min_p = static_cast<float>(config.min_p.value_or(0.0));
  out.repetition_penalty = static_cast<float>(config.repetition_penalty.value_or(1.0));
  return out;
}

}  // namespace

TextModel::TextModel(ModelOptions options, tokenizer::Tokenizer tokenizer,
                     tokenizer::ChatTemplate chat_template)
    : options_(std::move(options)),
      tokenizer_(std::move(tokenizer)),
      template_(std::move(chat_template)),
      text_(std::make_unique<server::TokenizerChatText>(tokenizer_, template_)) {}

Result<std::unique_ptr<TextModel>> TextModel::open(const ModelOptions& options,
                                                   const SessionNeeds& needs) {
  NIBBLE_ASSIGN_OR_RETURN(tokenizer::Tokenizer tokenizer,
                          tokenizer::Tokenizer::load(options.model));
  NIBBLE_ASSIGN_OR_RETURN(tokenizer::ChatTemplate chat_template,
                          tokenizer::ChatTemplate::load(options.model));
  NIBBLE_ASSIGN_OR_RETURN(const formats::GenerationConfig generation,
                          formats::load_generation_config(options.model));
  auto out = std::unique_ptr<TextModel>(
      new TextModel(options, std::move(tokenizer), std::move(chat_template)));
  TextModel& t = *out;
  t.defaults_ = defaults_of(generation);
  for (const int64_t id : generation.eos_token_id)
    t.end_tokens_.push_back(static_cast<int32_t>(id));
  const std::optional<int32_t> eos = t.tokenizer_.eos_token_id();
  if (eos && std::find(t.end_tokens_.begin(), t.end_tokens_.end(), *eos) == t.end_tokens_.end()) {
    t.end_tokens_.push_back(*eos);
  }
  SessionNeeds with_text = needs;
  with_text.vocab_limit = t.tokenizer_.vocab_size();
  NIBBLE_ASSIGN_OR_RETURN(t.session_, ModelSession::open(options, with_text));
  if (t.tokenizer_.vocab_size() > t.session_->config().vocab_size) {
    return Error{ErrorCode::corrupt, options.model + ": the tokenizer has " +
                                         std::to_string(t.tokenizer_.vocab_size()) +
                                         " ids, but vocab_size is " +
                                         std::to_string(t.session_->config().vocab_size)};
  }
  t.engine_ = runtime::Engine::start(t.session_->executor(), t.tokenizer_, t.session_->limits());
  return out;
}

server::ChatModel TextModel::chat_model() const {
  return {.text = *text_,
          .defaults = defaults_,
          .end_tokens = end_tokens_,
          .vocab_size = tokenizer_.vocab_size(),
          .source = options_.model,
          .default_template_kwargs = "{}"};
}

}  // namespace nibble::cli
