// Tests of what sampling needs from step to step: counts, min_tokens, draw numbers.
#include "runtime/sampling_state.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace nibble::runtime {
namespace {

TEST(SamplingState, CountsPromptAndOutputOnlyUnderPenalties) {
  Request request;
  request.prompt_tokens = {5, 3, 5};
  SamplingState neutral(request, 10);
  neutral.append(3);
  EXPECT_EQ(neutral.row(0).num_counts, 0);

  request.sampling.presence_penalty = 0.5f;
  SamplingState state(request, 10);
  state.append(3);
  state.append(9);
  state.append(9);
  const device::SampleRow row = state.row(2);
  EXPECT_EQ(row.logits_row, 2);
  std::map<int32_t, std::pair<int32_t, int32_t>> counts;
  for (int32_t i = 0; i < row.num_counts; ++i) {
    counts[row.counts[i].token] = {row.counts[i].in_prompt, row.counts[i].output_count};
  }
  const std::map<int32_t, std::pair<int32_t, int32_t>> expected = {
      {3, {1, 1}}, {5, {1, 0}}, {9, {0, 2}}};
  EXPECT_EQ(counts, expected);
}

TEST(SamplingState, StopTokensAreForbiddenUntilMinTokens) {
  Request request;
  request.prompt_tokens = {1};
  request.min_tokens = 2;
  request.stop_token_ids = {7, 8};
  request.sampling.logit_bias = {{4, 1.5f}};
  SamplingState state(request, 10);
  for (uint64_t generated = 0; generated < 2; ++generated) {
    const device::SampleRow row = state.row(0);
    EXPECT_EQ(row.draw_index, generated);
    ASSERT_EQ(row.num_bias, 3);
    EXPECT_TRUE(std::isinf(row.bias[0].bias) && row.bias[0].bias < 0);
    EXPECT_EQ(row.bias[2].token, 4);
    state.append(1);
  }
  const device::SampleRow row = state.row(0);
  ASSERT_EQ(row.num_bias, 1);
  EXPECT_EQ(row.bias[0].token, 4);
}

}  // namespace
}  // namespace nibble::runtime
