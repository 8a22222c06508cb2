#include "server/generation_run.h"

#include "base/check.h"

#include <algorithm>
#include <utility>

namespace nibble::server {

GenerationRun::GenerationRun(runtime::Engine& engine, const RunOptions& options,
                             int32_t prompt_tokens)
    : engine_(engine), queue_(std::make_shared<EventQueue>(options.max_buffered_bytes)) {
  usage_.prompt_tokens = prompt_tokens;
}

Result<std::unique_ptr<GenerationRun>> GenerationRun::start(runtime::Engine& engine,
                                                            std::vector<runtime::Request> requests,
                                                            const RunOptions& options) {
  NIBBLE_CHECK(!requests.empty(), "a run needs a request");
  const auto prompt_tokens = static_cast<int32_t>(requests[0].prompt_tokens.size());
  std::unique_ptr<GenerationRun> run(new GenerationRun(engine, options, prompt_tokens));
  for (runtime::Request& request : requests) {
    const auto index = static_cast<int32_t>(run->choices_.size());
    Result<runtime::RequestId> id =
        engine.submit(std::move(request), make_sink(run->queue_, index));
    if (!id.ok()) return id.error();
    run->choices_.push_back(
        Choice{id.value(), tokenizer::ReasoningSplitter(options.starts_in_reasoning), false});
  }
  return run;
}

GenerationRun::~GenerationRun() {
  queue_->close();
  cancel();
}

void GenerationRun::cancel() {
  for (const Choice& choice : choices_) {
    if (!choice.is_finished) engine_.cancel(choice.id);
  }
}

bool GenerationRun::is_in_reasoning(int32_t choice) const {
  return choices_[static_cast<size_t>(choice)].splitter.is_reasoning();
}

OutputPiece GenerationRun::read_delta(Choice& choice, runtime::Delta delta) {
  const auto num_tokens = static_cast<int32_t>(delta.tokens.size());
  usage_.completion_tokens += num_tokens;
  if (choice.splitter.is_reasoning()) usage_.reasoning_tokens += num_tokens;
  tokenizer::TextDelta split = choice.splitter.feed(delta.text);
  OutputPiece piece;
  piece.reasoning = std::move(split.reasoning);
  piece.content = std::move(split.content);
  piece.logprobs = std::move(delta.logprobs);
  return piece;
}

OutputPiece GenerationRun::read_finish(Choice& choice, runtime::Finish finish) {
  tokenizer::TextDelta split = choice.splitter.finish();
  OutputPiece piece;
  piece.reasoning = std::move(split.reasoning);
  piece.content = std::move(split.content);
  choice.is_finished = true;
  ++num_finished_;
  usage_.cached_tokens = std::max(usage_.cached_tokens, finish.usage.cached_tokens);
  if (&choice == &choices_[0]) timing_ = finish.usage;
  piece.finish = std::move(finish);
  return piece;
}

std::vector<OutputPiece> GenerationRun::take() {
  std::vector<OutputPiece> pieces;
  for (EngineEvent& event : queue_->take()) {
    Choice& choice = choices_[static_cast<size_t>(event.choice)];
    NIBBLE_CHECK(!choice.is_finished, "an event after the terminal one", choice.id);
    auto* delta = std::get_if<runtime::Delta>(&event.what);
    OutputPiece piece = delta != nullptr
                            ? read_delta(choice, std::move(*delta))
                            : read_finish(choice, std::move(std::get<runtime::Finish>(event.what)));
    piece.choice = event.choice;
    pieces.push_back(std::move(piece));
  }
  return pieces;
}

}  // namespace nibble::server
