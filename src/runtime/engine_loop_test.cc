// Tests of the engine loop without its thread, on a model-free executor that checks memory.
#include "runtime/engine_loop.h"

#include "base/rng.h"
#include "tests/support/demo_tokenizer.h"
#include "tests/support/fake_executor.h"
#include "tests/support/recording_sink.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace nibble::runtime {
namespace {

EngineLimits small_limits() {
  EngineLimits limits;
  limits.max_num_seqs = 5;
  limits.max_num_batched_tokens = 150;
  limits.max_model_len = 640;
  limits.num_pages = 14;
  limits.verify_invariants = true;
  return limits;
}

/// What the fake executor generates after this prompt.
std::vector<int32_t> expected_tokens(const std::vector<int32_t>& prompt, size_t count,
                                     int32_t vocab_size) {
  uint64_t hash = kEmptyHash;
  for (const int32_t token : prompt) hash = hash_token(hash, token);
  std::vector<int32_t> tokens;
  while (tokens.size() < count) {
    tokens.push_back(FakeExecutor::token_after(hash, vocab_size));
    hash = hash_token(hash, tokens.back());
  }
  return tokens;
}

class EngineLoopTest : public testing::Test {
 protected:
  void start(const EngineLimits& limits) {
    executor_ = std::make_unique<FakeExecutor>(limits, test_tokenizer().vocab_size());
    loop_ = std::make_unique<EngineLoop>(*executor_, test_tokenizer(), limits);
  }

  std::shared_ptr<RecordingSink> submit(const Request& request) {
    auto sink = std::make_shared<RecordingSink>();
    loop_->accept({++last_id_, request, sink, EngineClock::now()});
    return sink;
  }

  void run_until_idle() {
    for (int i = 0; i < 100000 && !loop_->is_idle(); ++i) ASSERT_TRUE(loop_->run_step().ok());
    ASSERT_TRUE(loop_->is_idle());
  }

  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<EngineLoop> loop_;
  RequestId last_id_ = 0;
};

TEST_F(EngineLoopTest, LengthEndsARequestAndTheTextIsThatOfItsTokens) {
  start(small_limits());
  Request request;
  request.prompt_tokens = tokens_of("Once upon a time");
  request.max_tokens = 30;
  const auto sink = submit(request);
  run_until_idle();
  const auto expected = expected_tokens(request.prompt_tokens, 30, test_tokenizer().vocab_size());
  EXPECT_EQ(sink->tokens(), expected);
  EXPECT_EQ(sink->text(), test_tokenizer().decode(expected, tokenizer::SkipSpecial::yes));
  const Finish finish = sink->finish();
  EXPECT_EQ(finish.reason, FinishReason::length);
  EXPECT_EQ(finish.usage.prompt_tokens, static_cast<int32_t>(request.prompt_tokens.size()));
  EXPECT_EQ(finish.usage.completion_tokens, 30);
  EXPECT_GE(finish.usage.queue_seconds, 0.0);
}

TEST_F(EngineLoopTest, ThePromptCanFillTheContextButForOneToken) {
  start(small_limits());
  Request request;
  request.prompt_tokens.assign(639, 5);
  const auto sink = submit(request);
  run_until_idle();
  EXPECT_EQ(sink->finish().usage.completion_tokens, 1);
  EXPECT_EQ(sink->finish().reason, FinishReason::length);
}

TEST_F(EngineLoopTest, StopTokenAndStopStringEndARequest) {
  start(small_limits());
  Request request;
  request.prompt_tokens = {1, 2, 3};
  const auto expected = expected_tokens(request.prompt_tokens, 40, test_tokenizer().vocab_size());
  request.stop_token_ids = {expected[20]};
  const auto by_token = submit(request);
  request.stop_token_ids.clear();
  const std::string text = test_tokenizer().decode(expected, tokenizer::SkipSpecial::yes);
  const size_t middle = text.size() / 2;
  request.stop = {text.substr(middle, 7)};
  const auto by_string = submit(request);
  run_until_idle();
  EXPECT_EQ(by_token->finish().reason, FinishReason::stop);
  EXPECT_EQ(by_token->finish().stop_token, expected[20]);
  EXPECT_LE(by_token->tokens().size(), 21u);
  EXPECT_EQ(by_string->finish().reason, FinishReason::stop);
  EXPECT_EQ(by_string->finish().stop_string, request.stop[0]);
  EXPECT_EQ(by_string->text(), text.substr(0, text.find(request.stop[0])));
}

TEST_F(EngineLoopTest, LogprobsComeWithTheTokens) {
  start(small_limits());
  executor_->next_token = [](const device::SampleRow& row, uint64_t) {
    device::SampleResult result;
    result.token = 40 + static_cast<int32_t>(row.draw_index);
    result.logprob = -0.5f;
    result.num_top = row.top_logprobs;
    for (int32_t i = 0; i < row.top_logprobs; ++i) result.top_tokens[i] = i;
    return result;
  };
  Request request;
  request.prompt_tokens = {1};
  request.max_tokens = 3;
  request.sampling.top_logprobs = 2;
  const auto sink = submit(request);
  run_until_idle();
  ASSERT_EQ(sink->logprobs().size(), 3u);
  EXPECT_EQ(sink->logprobs()[2].token, 42);
  EXPECT_EQ(sink->logprobs()[2].top.size(), 2u);
}

TEST_F(EngineLoopTest, BadLogitsEndOnlyTheRequestThatHasThem) {
  start(small_limits());
  executor_->next_token = [](const device::SampleRow& row, uint64_t) {
    device::SampleResult result;
    result.finite = row.seed != 666 || row.draw_index < 2;
    result.token = result.finite ? 50 : -1;
    return result;
  };
  Request request;
  request.prompt_tokens = {1};
  request.max_tokens = 10;
  const auto good = submit(request);
  request.sampling.seed = 666;
  const auto bad = submit(request);
  run_until_idle();
  EXPECT_EQ(good->finish().reason, FinishReason::length);
  EXPECT_EQ(bad->finish().reason, FinishReason::error);
  EXPECT_NE(bad->finish().error.find("not finite"), std::string::npos);
  EXPECT_EQ(bad->tokens().size(), 2u);
}

TEST_F(EngineLoopTest, CancelWaitingPrefillingDecoding) {
  EngineLimits limits = small_limits();
  limits.max_num_seqs = 1;
  limits.max_num_batched_tokens = 64;
  start(limits);
  Request request;
  request.prompt_tokens.assign(200, 9);
  const auto running = submit(request);
  const auto waiting = submit(request);
  ASSERT_TRUE(loop_->run_step().ok());
  loop_->cancel(2);
  EXPECT_EQ(waiting->finish().reason, FinishReason::cancelled);
  EXPECT_TRUE(waiting->tokens().empty());
  loop_->cancel(1);  // prefilling
  EXPECT_EQ(running->finish().reason, FinishReason::cancelled);
  EXPECT_TRUE(loop_->is_idle());
  const auto decoding = submit(request);
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(loop_->run_step().ok());
  EXPECT_FALSE(decoding->tokens().empty());
  loop_->cancel(3);
  loop_->cancel(3);
  EXPECT_EQ(decoding->finish().reason, FinishReason::cancelled);
  loop_->check_invariants();
  EXPECT_EQ(loop_->stats().free_pages, limits.num_pages);
  EXPECT_EQ(loop_->take_num_ended(), 3u);
}

TEST_F(EngineLoopTest, ALostDeviceFailsEverybodyOnce) {
  start(small_limits());
  Request request;
  request.prompt_tokens.assign(100, 9);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 8; ++i) sinks.push_back(submit(request));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(loop_->run_step().ok());
  executor_->failure = "illegal address";
  const Result<void> step = loop_->run_step();
  ASSERT_FALSE(step.ok());
  loop_->fail_all(step.error().message);
  for (const auto& sink : sinks) {
    EXPECT_EQ(sink->finish().reason, FinishReason::error);
    EXPECT_EQ(sink->finish().error, "illegal address");
  }
  EXPECT_TRUE(loop_->is_idle());
  loop_->check_invariants();
}

/// A client that submits, cancels and checks at random.
class RandomClient {
 public:
  RandomClient(EngineLoop& loop, int32_t vocab_size) : loop_(loop), vocab_size_(vocab_size) {}

  void act() {
    if (open_.size() < 12 && rng_.below(4) == 0) submit();
    if (!open_.empty() && rng_.below(25) == 0) {
      auto victim = open_.begin();
      std::advance(victim, static_cast<long>(rng_.below(open_.size())));
      loop_.cancel(victim->first);
      EXPECT_TRUE(victim->second.sink->has_finished());
    }
  }

  void collect() {
    for (auto it = open_.begin(); it != open_.end();) {
      if (!it->second.sink->has_finished()) {
        ++it;
        continue;
      }
      check(it->second);
      it = open_.erase(it);
    }
  }

  size_t num_open() const { return open_.size(); }
  std::map<FinishReason, int> reasons;
  int submitted = 0;

 private:
  struct Open {
    Request request;
    std::shared_ptr<RecordingSink> sink;
  };

  void submit() {
    Open open;
    const bool is_long = rng_.below(8) == 0;
    const uint64_t length = 1 + rng_.below(is_long ? 500 : 100);
    for (uint64_t i = 0; i < length; ++i) {
      open.request.prompt_tokens.push_back(
          static_cast<int32_t>(rng_.below(static_cast<uint64_t>(vocab_size_))));
    }
    open.request.max_tokens = is_long ? 0 : 1 + static_cast<int32_t>(rng_.below(80));
    for (int i = 0; i < 30; ++i) {
      open.request.stop_token_ids.push_back(
          static_cast<int32_t>(rng_.below(static_cast<uint64_t>(vocab_size_))));
    }
    if (rng_.below(3) == 0) open.request.stop = {"ing", " th", "o"};
    open.sink = std::make_shared<RecordingSink>();
    loop_.accept({++last_id_, open.request, open.sink, EngineClock::now()});
    open_.emplace(last_id_, std::move(open));
    ++submitted;
  }

  /// The tokens are those of this prompt alone, whoever shared the steps.
  void check(const Open& open) {
    const Finish finish = open.sink->finish();
    ++reasons[finish.reason];
    const auto tokens = open.sink->tokens();
    EXPECT_EQ(tokens, expected_tokens(open.request.prompt_tokens, tokens.size(), vocab_size_));
    EXPECT_EQ(finish.usage.completion_tokens, static_cast<int32_t>(tokens.size()));
    if (finish.reason == FinishReason::length) {
      const size_t total = tokens.size() + open.request.prompt_tokens.size();
      EXPECT_TRUE(total == 640 || static_cast<int32_t>(tokens.size()) == open.request.max_tokens);
    }
  }

  EngineLoop& loop_;
  int32_t vocab_size_;
  Rng rng_{2024};
  RequestId last_id_ = 0;
  std::map<RequestId, Open> open_;
};

TEST_F(EngineLoopTest, AHundredThousandRandomSteps) {
  start(small_limits());
  RandomClient client(*loop_, test_tokenizer().vocab_size());
  for (int i = 0; i < 100000; ++i) {
    client.act();
    ASSERT_TRUE(loop_->run_step().ok());
    loop_->check_invariants();
    client.collect();
  }
  loop_->cancel_all();
  client.collect();
  EXPECT_EQ(client.num_open(), 0u);
  EXPECT_EQ(loop_->take_num_ended(), static_cast<size_t>(client.submitted));
  EXPECT_EQ(loop_->stats().free_pages, 14);
  EXPECT_GT(executor_->num_steps, 95000);
  EXPECT_GT(client.reasons[FinishReason::stop], 1000);
  EXPECT_GT(client.reasons[FinishReason::length], 1000);
  EXPECT_GT(client.reasons[FinishReason::cancelled], 1000);
  EXPECT_EQ(client.reasons[FinishReason::error], 0);
}

}  // namespace
}  // namespace nibble::runtime
