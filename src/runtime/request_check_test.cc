// Tests of the checks before a request is queued.
#include "runtime/request_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>

namespace nibble::runtime {
namespace {

struct Case {
  const char* field;  // what the message must name
  std::function<void(Request&)> spoil;
};

TEST(CheckRequest, NamesTheFieldThatIsWrong) {
  EngineLimits limits;
  limits.max_model_len = 10;
  Request good;
  good.prompt_tokens = {1, 2, 3};
  good.max_tokens = 1000;  // lowered to what fits, no error
  ASSERT_TRUE(check_request(good, limits, 100).ok());

  const float nan = std::nanf("");
  const Case cases[] = {
      {"prompt_tokens", [](Request& r) { r.prompt_tokens.clear(); }},
      {"prompt_tokens", [](Request& r) { r.prompt_tokens.assign(10, 1); }},
      {"prompt_tokens", [](Request& r) { r.prompt_tokens[1] = 100; }},
      {"prompt_tokens", [](Request& r) { r.prompt_tokens[1] = -1; }},
      {"max_tokens", [](Request& r) { r.max_tokens = -1; }},
      {"min_tokens", [](Request& r) { r.min_tokens = 1001; }},
      {"temperature", [](Request& r) { r.sampling.temperature = -0.1f; }},
      {"temperature", [nan](Request& r) { r.sampling.temperature = nan; }},
      {"top_p", [](Request& r) { r.sampling.top_p = 0.0f; }},
      {"min_p", [](Request& r) { r.sampling.min_p = 1.1f; }},
      {"repetition_penalty", [](Request& r) { r.sampling.repetition_penalty = 0.0f; }},
      {"presence_penalty", [nan](Request& r) { r.sampling.presence_penalty = nan; }},
      {"top_logprobs", [](Request& r) { r.sampling.top_logprobs = 21; }},
      {"stop_token_ids", [](Request& r) { r.stop_token_ids = {100}; }},
      {"logit_bias",
       [](Request& r) {
         r.sampling.logit_bias = {{100, 1.0f}};
       }},
      {"logit_bias",
       [nan](Request& r) {
         r.sampling.logit_bias = {{1, nan}};
       }},
      {"stop", [](Request& r) { r.stop = {""}; }},
  };
  for (const Case& c : cases) {
    Request request = good;
    c.spoil(request);
    const Result<void> checked = check_request(request, limits, 100);
    ASSERT_FALSE(checked.ok()) << c.field;
    EXPECT_EQ(checked.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(checked.error().message.find(std::string(c.field) + ":"), 0u)
        << checked.error().message;
  }
}

}  // namespace
}  // namespace nibble::runtime
