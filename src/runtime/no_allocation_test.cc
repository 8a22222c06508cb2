// After start-up a step allocates nothing: scheduling, building the step and advancing are counted.
//
// Not covered, because it may allocate: taking in a request, admitting it, text and events.
#include "runtime/scheduler.h"
#include "runtime/step_builder.h"
#include "tests/support/allocation_count.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace nibble::runtime {
namespace {

Request request_of(int32_t prompt) {
  Request request;
  request.prompt_tokens.assign(static_cast<size_t>(prompt), 1);
  for (int32_t i = 0; i < prompt; ++i) request.prompt_tokens[static_cast<size_t>(i)] = i % 100;
  request.sampling.presence_penalty = 1.0f;
  request.sampling.logit_bias = {{1, 2.0f}};
  request.min_tokens = 5;
  request.stop_token_ids = {7};
  return request;
}

TEST(NoAllocation, InAStepAfterStartUp) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer owns operator new";
  EngineLimits limits;
  limits.max_num_seqs = 6;
  limits.max_num_batched_tokens = 256;
  limits.max_model_len = 2000;
  limits.num_pages = 40;  // too few for all: stalls and the search for a safe order take part
  Scheduler scheduler(limits);
  Step step = make_step(step_capacity(limits));
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (int32_t i = 0; i < 6; ++i) {
    auto sequence = std::make_unique<Sequence>();
    const Request request = request_of(50 + 70 * i);
    sequence->id = static_cast<RequestId>(i + 1);
    sequence->tokens = request.prompt_tokens;
    sequence->num_prompt_tokens = sequence->num_tokens();
    sequence->max_total_tokens = i % 2 == 0 ? 1990 : 600;
    sequence->sampling =
        SamplingState(request, sequence->max_total_tokens - sequence->num_prompt_tokens);
    scheduler.add(*sequence);
    sequences.push_back(std::move(sequence));
  }

  int64_t in_steps = 0;
  int num_steps = 0;
  while (scheduler.num_running() + scheduler.num_waiting() > 0 && num_steps < 10000) {
    scheduler.admit();
    const int64_t before = allocations_of_this_thread();
    build_step(scheduler.schedule(), step);
    scheduler.advance();
    for (const auto& sequence : sequences) {
      if (sequence->state != SequenceState::decode || sequence->is_stalled) continue;
      if (sequence->num_computed_tokens != sequence->num_tokens()) continue;
      sequence->tokens.push_back(num_steps % 90);
      sequence->sampling.append(num_steps % 90);
      if (sequence->num_tokens() < sequence->max_total_tokens) continue;
      scheduler.remove(*sequence);
      sequence->num_computed_tokens = 0;
      sequence->state = SequenceState::waiting;
    }
    in_steps += allocations_of_this_thread() - before;
    ++num_steps;
  }
  EXPECT_EQ(scheduler.num_running() + scheduler.num_waiting(), 0);
  EXPECT_GT(num_steps, 1900);
  EXPECT_EQ(in_steps, 0);

  const int64_t before = allocations_of_this_thread();
  const auto one = std::make_unique<int>(1);
  EXPECT_EQ(allocations_of_this_thread() - before, 1) << "the counter itself must work";
}

}  // namespace
}  // namespace nibble::runtime
