// One request's sequence as the scheduler sees it: tokens, how many are computed, pages and slot.
//
// States: waiting -> prefill -> decode -> gone, or straight to gone from any of them (cancel,
// error). Tokens [0, num_computed_tokens) have their KV rows stored and are in the state slot; the
// next step computes from there. Text, stop rules and the client are not known here.
#pragma once

#include "runtime/request.h"
#include "runtime/sampling_state.h"
#include "runtime/state_slots.h"

#include <cstdint>
#include <vector>

namespace nibble::runtime {

enum class SequenceState { waiting, prefill, decode };

struct Sequence {
  RequestId id = 0;
  SequenceState state = SequenceState::waiting;
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  int32_t num_prompt_tokens = 0;
  int32_t num_computed_tokens = 0;
  int32_t max_total_tokens = 0;  // prompt + completion at most
  std::vector<int32_t> pages;  // page of KV rows 64i .. 64i+63
  StateHandle slot;
  bool is_stalled = false;  // wanted a page in the last schedule() and had to wait
  int32_t steps_in_flight = 0;  // steps scheduled and not yet advanced; it cannot be removed
  SamplingState sampling;

  int32_t num_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t num_generated_tokens() const { return num_tokens() - num_prompt_tokens; }
  /// KV rows at most: the last token generated is never computed.
  int32_t max_computed_tokens() const { return max_total_tokens - 1; }
};

}  // namespace nibble::runtime
