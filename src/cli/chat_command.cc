// nibble chat: a conversation in the terminal. Streams the answer, dims the thinking, stops an
// answer on Ctrl-C.
#include "base/json.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/line_editor.h"
#include "cli/text_model.h"
#include "server/generation_run.h"
#include "tokenizer/reasoning_splitter.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>

namespace nibble::cli {
namespace {

constexpr const char* kDim = "\033[2m";
constexpr const char* kPlain = "\033[0m";
constexpr auto kPollInterval = std::chrono::milliseconds(50);

// Wakes the waiting loop when the engine has something to say.
class Wake {
 public:
  void notify() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      woken_ = true;
    }
    condition_.notify_one();
  }
  // Returns after a notify, or a moment later to look for Ctrl-C.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    condition_.wait_for(lock, kPollInterval, [this] { return woken_; });
    woken_ = false;
  }

 private:
  std::mutex mutex_;
  std::condition_variable condition_;
  bool woken_ = false;
};

class ChatLoop {
 public:
  ChatLoop(TextModel& model, const ChatOptions& options)
      : model_(model),
        options_(options),
        messages_(OrderedJson::array()),
        colours_(isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr) {
    clear();
  }

  void clear() {
    messages_ = OrderedJson::array();
    if (!options_.system.empty())
      messages_.push_back({{"role", "system"}, {"content", options_.system}});
  }

  /// Asks, prints the answer as it comes, remembers both.
  Result<void> ask(const std::string& question);

 private:
  Result<std::unique_ptr<server::GenerationRun>> start();
  void print(const std::string& text, bool dim);
  void print_speed(const server::GenerationRun& run, bool stopped) const;

  TextModel& model_;
  const ChatOptions& options_;
  OrderedJson messages_;
  bool colours_;
  bool dimmed_ = false;
};

Result<std::unique_ptr<server::GenerationRun>> ChatLoop::start() {
  tokenizer::ChatRequest conversation;
  conversation.messages = messages_;
  conversation.variables["enable_thinking"] = options_.thinking;
  conversation.add_generation_prompt = true;
  NIBBLE_ASSIGN_OR_RETURN(const std::string prompt, model_.text().render(conversation));
  NIBBLE_ASSIGN_OR_RETURN(std::vector<int32_t> tokens, model_.text().encode(prompt));
  const server::ChatModel chat = model_.chat_model();
  runtime::Request request;
  request.prompt_tokens = std::move(tokens);
  const int32_t room =
      model_.engine().limits().max_model_len - static_cast<int32_t>(request.prompt_tokens.size());
  if (room < 1)
    return Error{ErrorCode::invalid_argument,
                 "the conversation fills the context; /clear starts anew"};
  request.max_tokens = options_.max_tokens > 0 ? std::min(options_.max_tokens, room) : room;
  request.sampling.temperature = options_.temperature >= 0
                                     ? static_cast<float>(options_.temperature)
                                     : chat.defaults.temperature;
  request.sampling.top_p = chat.defaults.top_p;
  request.sampling.top_k = chat.defaults.top_k;
  request.sampling.min_p = chat.defaults.min_p;
  request.sampling.repetition_penalty = chat.defaults.repetition_penalty;
  request.sampling.seed =
      options_.seed != 0
          ? options_.seed
          : static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  request.stop_token_ids = chat.end_tokens;
  server::RunOptions run_options;
  run_options.starts_in_reasoning = tokenizer::ends_inside_reasoning(prompt);
  std::vector<runtime::Request> requests;
  requests.push_back(std::move(request));
  return server::GenerationRun::start(model_.engine(), std::move(requests), run_options);
}

void ChatLoop::print(const std::string& text, bool dim) {
  if (text.empty()) return;
  if (colours_ && dim != dimmed_) {
    if (!dim) fmt::print("\n");
    fmt::print("{}", dim ? kDim : kPlain);
    dimmed_ = dim;
  }
  fmt::print("{}", text);
  std::fflush(stdout);
}

void ChatLoop::print_speed(const server::GenerationRun& run, bool stopped) const {
  const runtime::Usage& timing = run.timing();
  const double decoded = timing.completion_tokens - 1;
  const double rate = timing.decode_seconds > 0 ? decoded / timing.decode_seconds : 0;
  fmt::print(stderr, "{}[{}{} prompt tokens, {} generated, {:.1f} tokens/s]{}\n",
             colours_ ? kDim : "", stopped ? "stopped; " : "", timing.prompt_tokens,
             timing.completion_tokens, rate, colours_ ? kPlain : "");
}

Result<void> ChatLoop::ask(const std::string& question) {
  messages_.push_back({{"role", "user"}, {"content", question}});
  auto started = start();
  if (!started.ok()) {
    messages_.erase(messages_.size() - 1);
    return started.error();
  }
  server::GenerationRun& run = *started.value();
  Wake wake;
  run.set_wake([&wake] { wake.notify(); });
  std::string content, reasoning;
  bool stopped = false;
  Result<void> outcome;
  while (!run.is_done()) {
    wake.wait();
    if (interrupt_signal() != 0 && !stopped) {
      stopped = true;
      run.cancel();
    }
    for (const server::OutputPiece& piece : run.take()) {
      print(piece.reasoning, true);
      print(piece.content, false);
      reasoning += piece.reasoning;
      content += piece.content;
      if (piece.finish && piece.finish->reason == runtime::FinishReason::error) {
        outcome = Error{ErrorCode::internal, piece.finish->error};
      }
    }
  }
  run.set_wake({});
  if (colours_) fmt::print("{}", kPlain);
  dimmed_ = false;
  fmt::print("\n");
  std::fflush(stdout);
  clear_interrupt();
  print_speed(run, stopped);
  messages_.push_back(
      {{"role", "assistant"}, {"content", content}, {"reasoning_content", reasoning}});
  return outcome;
}

Result<void> converse(ChatLoop& loop) {
  LineEditor editor;
  if (editor.is_interactive())
    fmt::print("Ctrl-C stops an answer, Ctrl-D leaves, /clear forgets.\n");
  while (const std::optional<std::string> line = editor.read_line("> ")) {
    if (line->empty()) continue;
    if (*line == "/clear") {
      loop.clear();
      continue;
    }
    if (*line == "/quit" || *line == "/exit") break;
    const Result<void> answered = loop.ask(*line);
    if (!answered.ok()) {
      if (!editor.is_interactive()) return answered.error();
      report_error(answered.error());
    }
  }
  return {};
}

Result<void> chat(const ChatOptions& options) {
  SessionNeeds needs;
  needs.max_num_seqs = 1;
  NIBBLE_ASSIGN_OR_RETURN(const auto model, TextModel::open(options.model, needs));
  ChatLoop loop(*model, options);
  return options.prompt.empty() ? converse(loop) : loop.ask(options.prompt);
}

}  // namespace

int run_chat(const ChatOptions& options) {
  const Result<void> done = chat(options);
  return done.ok() ? kExitOk : report_error(done.error());
}

}  // namespace nibble::cli
