#include "server/chat_reply.h"

#include "base/log.h"
#include "server/openai_errors.h"
#include "server/sse.h"

#include <fmt/format.h>

#include <utility>

namespace nibble::server {
namespace {

ApiError engine_failure(const runtime::Finish& finish) {
  // The engine's words may hold details of this machine: they go to the log only.
  log_error(fmt::format("request failed in the engine: {}", finish.error));
  ApiError error;
  error.status = 500;
  error.message = "The engine failed while working on this request";
  return error;
}

bool is_failure(const OutputPiece& piece) {
  return piece.finish.has_value() && piece.finish->reason == runtime::FinishReason::error;
}

// What both forms share: the run, and one line in the log at the end.
class ChatReply : public PendingReply {
 public:
  ChatReply(std::unique_ptr<GenerationRun> run, ChatAnswer answer, const ChatText& text)
      : run_(std::move(run)), answer_(std::move(answer)), text_(text) {}
  ~ChatReply() override {
    if (!is_logged_) log_line("client left");
  }
  ChatReply(const ChatReply&) = delete;
  ChatReply& operator=(const ChatReply&) = delete;

  void set_wake(std::function<void()> wake) override { run_->set_wake(std::move(wake)); }
  bool overflowed() const override { return run_->overflowed(); }
  void abort() override { run_->cancel(); }

 protected:
  void log_line(std::string_view outcome) {
    is_logged_ = true;
    const UsageTotals& usage = run_->usage();
    const runtime::Usage& timing = run_->timing();
    log_info(fmt::format(
        "{} {}: {}; prompt {} (cached {}), output {} (reasoning {}) tokens; queue {:.3f} s, "
        "prefill {:.3f} s, decode {:.3f} s",
        answer_.id, answer_.model, outcome, usage.prompt_tokens, usage.cached_tokens,
        usage.completion_tokens, usage.reasoning_tokens, timing.queue_seconds,
        timing.prefill_seconds, timing.decode_seconds));
  }

  std::unique_ptr<GenerationRun> run_;
  ChatAnswer answer_;
  const ChatText& text_;

 private:
  bool is_logged_ = false;
};

class PlainChatReply : public ChatReply {
 public:
  PlainChatReply(std::unique_ptr<GenerationRun> run, ChatAnswer answer, const ChatText& text)
      : ChatReply(std::move(run), std::move(answer), text), choices_(run_->num_choices()) {
    for (size_t i = 0; i < choices_.size(); ++i) choices_[i].index = static_cast<int32_t>(i);
  }

  ReplyPart take(bool) override {
    ReplyPart part;
    for (OutputPiece& piece : run_->take()) {
      if (is_failure(piece)) {
        log_line("error");
        part.head = error_response(engine_failure(*piece.finish));
        part.last = true;
        return part;
      }
      collect(std::move(piece));
    }
    if (!run_->is_done()) return part;
    part.head.emplace();
    part.head->body = chat_completion(answer_, choices_, run_->usage(), text_);
    part.last = true;
    log_line(finish_reason_text(choices_[0].finish.reason));
    return part;
  }

 private:
  void collect(OutputPiece piece) {
    ChatChoice& choice = choices_[static_cast<size_t>(piece.choice)];
    const bool is_hidden =
        piece.content.empty() && !answer_.include_reasoning && run_->is_in_reasoning(piece.choice);
    choice.reasoning += piece.reasoning;
    choice.content += piece.content;
    if (!is_hidden) {
      choice.logprobs.insert(choice.logprobs.end(), piece.logprobs.begin(), piece.logprobs.end());
    }
    if (!piece.finish.has_value()) return;
    choice.finish = std::move(*piece.finish);
    choice.ended_in_reasoning = run_->is_in_reasoning(piece.choice);
  }

  std::vector<ChatChoice> choices_;
};

class StreamedChatReply : public ChatReply {
 public:
  StreamedChatReply(std::unique_ptr<GenerationRun> run, ChatAnswer answer, const ChatText& text)
      : ChatReply(std::move(run), std::move(answer), text), states_(run_->num_choices()) {}

  ReplyPart take(bool heartbeat_due) override {
    ReplyPart part;
    std::vector<OutputPiece> pieces = run_->take();
    if (pieces.empty()) {
      if (!heartbeat_due) return part;
      begin(part);
      part.chunk = kSsePing;
      return part;
    }
    if (!has_begun_ && is_failure(pieces[0])) {
      log_line("error");
      part.head = error_response(engine_failure(*pieces[0].finish));
      part.last = true;
      return part;
    }
    begin(part);
    for (OutputPiece& piece : pieces) {
      if (is_failure(piece)) {
        fail(*piece.finish, part);
        return part;
      }
      write(piece, part.chunk);
    }
    if (run_->is_done()) end(part);
    return part;
  }

 private:
  struct ChoiceState {
    bool has_role = false;
    std::vector<runtime::TokenLogprob> held_logprobs;  // of tokens whose text is held back
  };

  void begin(ReplyPart& part) {
    if (!has_begun_) part.head = sse_head();
    has_begun_ = true;
  }

  void fail(const runtime::Finish& finish, ReplyPart& part) {
    log_line("error");
    part.chunk += sse_event(error_json(engine_failure(finish)));
    part.chunk += kSseDone;
    part.last = true;
  }

  void end(ReplyPart& part) {
    if (answer_.include_usage) part.chunk += usage_chunk(answer_, run_->usage());
    part.chunk += kSseDone;
    part.last = true;
    log_line("streamed");
  }

  void hold_logprobs(OutputPiece& piece, ChoiceState& state) {
    const bool is_hidden =
        piece.content.empty() && !answer_.include_reasoning && run_->is_in_reasoning(piece.choice);
    if (is_hidden) return;
    state.held_logprobs.insert(state.held_logprobs.end(), piece.logprobs.begin(),
                               piece.logprobs.end());
  }

  void write(OutputPiece& piece, std::string& out) {
    ChoiceState& state = states_[static_cast<size_t>(piece.choice)];
    ChunkParts parts;
    parts.choice = piece.choice;
    const UsageTotals* usage = answer_.continuous_usage ? &run_->usage() : nullptr;
    if (!state.has_role) {
      state.has_role = true;
      parts.delta = role_delta();
      parts.usage = usage;
      out += chat_chunk(answer_, std::exchange(parts, {}));
      parts.choice = piece.choice;
    }
    parts.usage = usage;
    hold_logprobs(piece, state);
    if (answer_.include_reasoning && !piece.reasoning.empty()) {
      parts.delta["reasoning"] = piece.reasoning;
      parts.delta["reasoning_content"] = piece.reasoning;
    }
    if (!piece.content.empty()) parts.delta["content"] = piece.content;
    if (piece.finish.has_value()) parts.finish = &*piece.finish;
    if (parts.delta.empty() && parts.finish == nullptr) return;
    if (answer_.wants_logprobs && !state.held_logprobs.empty()) {
      parts.logprobs = logprobs_json(state.held_logprobs, text_);
      state.held_logprobs.clear();
    }
    out += chat_chunk(answer_, std::move(parts));
  }

  std::vector<ChoiceState> states_;
  bool has_begun_ = false;
};

}  // namespace

std::unique_ptr<PendingReply> make_plain_chat_reply(std::unique_ptr<GenerationRun> run,
                                                    ChatAnswer answer, const ChatText& text) {
  return std::make_unique<PlainChatReply>(std::move(run), std::move(answer), text);
}

std::unique_ptr<PendingReply> make_streamed_chat_reply(std::unique_ptr<GenerationRun> run,
                                                       ChatAnswer answer, const ChatText& text) {
  return std::make_unique<StreamedChatReply>(std::move(run), std::move(answer), text);
}

}  // namespace nibble::server
