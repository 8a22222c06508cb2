// Everything the engine thread keeps about one accepted request, from its arrival to its terminal
// event.
#pragma once

#include "runtime/output_text.h"
#include "runtime/request_inbox.h"
#include "runtime/sequence.h"

#include <optional>
#include <utility>

namespace nibble::runtime {

struct ActiveRequest {
  /// Prepares the sequence; max_model_len bounds it. The tokenizer outlives the request.
  ActiveRequest(Submission arrived, const tokenizer::Tokenizer& tokenizer, int32_t max_model_len);
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  /// Takes the sampled token: into the sequence, the delta and the text; decides whether it was the
  /// last one.
  void take_token(const device::SampleResult& result, EngineClock::time_point now);
  /// Sets the terminal event, once.
  void end(FinishReason reason, std::string error = {});
  bool has_ended() const { return finish.has_value(); }
  /// The delta and, if ended, the terminal event go to the sink; the delta is then empty.
  void publish();

  Submission submission;
  Sequence sequence;
  OutputText text;
  Delta delta;
  std::optional<Finish> finish;
  std::optional<EngineClock::time_point> first_scheduled, first_token, last_token;

 private:
  void record_logprob(const device::SampleResult& result);
  Usage usage() const;
};

}  // namespace nibble::runtime
