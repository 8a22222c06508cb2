// Tests of the engine with its thread: queue bound, cancel, drain, failure, many clients at once.
//
// No sleeps: tests wait for events, or hold the engine thread inside the executor.
#include "runtime/engine.h"

#include "tests/support/demo_tokenizer.h"
#include "tests/support/fake_executor.h"
#include "tests/support/recording_sink.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace nibble::runtime {
namespace {

EngineLimits small_limits() {
  EngineLimits limits;
  limits.max_num_seqs = 4;
  limits.max_num_batched_tokens = 128;
  limits.max_model_len = 512;
  limits.num_pages = 16;
  limits.verify_invariants = true;
  return limits;
}

Request request_of(int32_t first_token, int32_t max_tokens) {
  Request request;
  request.prompt_tokens = {first_token, 2, 3};
  request.max_tokens = max_tokens;
  return request;
}

/// Holds whoever passes until opened.
class Gate {
 public:
  void pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return is_open_; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    is_open_ = true;
    changed_.notify_all();
  }
  void wait_for_arrival() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return arrived_ > 0; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0;
  bool is_open_ = false;
};

class EngineTest : public testing::Test {
 protected:
  void start(const EngineLimits& limits) {
    executor_ = std::make_unique<FakeExecutor>(limits, test_tokenizer().vocab_size());
    if (with_gate_) executor_->on_run = [this](const Step&) { gate_.pass(); };
    engine_ = Engine::start(*executor_, test_tokenizer(), limits);
  }

  std::shared_ptr<RecordingSink> submit(const Request& request, RequestId* id = nullptr) {
    auto sink = std::make_shared<RecordingSink>();
    const Result<RequestId> result = engine_->submit(request, sink);
    EXPECT_TRUE(result.ok());
    if (id != nullptr && result.ok()) *id = result.value();
    return sink;
  }

  ErrorCode refused(const Request& request) {
    const auto sink = std::make_shared<RecordingSink>();
    const Result<RequestId> result = engine_->submit(request, sink);
    EXPECT_FALSE(result.ok());
    EXPECT_FALSE(sink->has_finished());
    return result.ok() ? ErrorCode::internal : result.error().code;
  }

  Gate gate_;
  bool with_gate_ = false;
  std::unique_ptr<FakeExecutor> executor_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(EngineTest, AnswersAndCounts) {
  start(small_limits());
  const auto sink = submit(request_of(1, 5));
  sink->wait_for_finish();
  engine_->drain(60);
  const EngineStats stats = engine_->stats();
  EXPECT_EQ(sink->tokens().size(), 5u);
  EXPECT_EQ(stats.finished, 1u);
  EXPECT_EQ(stats.prompt_tokens, 3u);
  EXPECT_EQ(stats.generated_tokens, 5u);
  EXPECT_EQ(stats.steps, 5u);
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
  EXPECT_EQ(stats.free_pages, 16);
}

TEST_F(EngineTest, RefusesWhatItCannotTake) {
  start(small_limits());
  EXPECT_EQ(refused(Request{}), ErrorCode::invalid_argument);
  Request too_long;
  too_long.prompt_tokens.assign(512, 1);
  EXPECT_EQ(refused(too_long), ErrorCode::invalid_argument);
}

TEST_F(EngineTest, AFullQueueRefusesAtOnce) {
  with_gate_ = true;
  EngineLimits limits = small_limits();
  limits.max_num_queued_reqs = 3;
  start(limits);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 3; ++i) sinks.push_back(submit(request_of(i, 3)));
  EXPECT_EQ(refused(request_of(9, 3)), ErrorCode::exhausted);
  gate_.open();
  for (const auto& sink : sinks) sink->wait_for_finish();
  engine_->drain(60);
  for (const auto& sink : sinks) EXPECT_EQ(sink->finish().reason, FinishReason::length);
}

TEST_F(EngineTest, CancelARunningAndAWaitingRequest) {
  with_gate_ = true;
  EngineLimits limits = small_limits();
  limits.max_num_seqs = 1;
  start(limits);
  RequestId first = 0;
  RequestId second = 0;
  const auto running = submit(request_of(1, 400), &first);
  gate_.wait_for_arrival();
  const auto waiting = submit(request_of(2, 400), &second);
  engine_->cancel(second);
  engine_->cancel(first);
  engine_->cancel(first);
  engine_->cancel(987654);
  gate_.open();
  running->wait_for_finish();
  waiting->wait_for_finish();
  EXPECT_EQ(running->finish().reason, FinishReason::cancelled);
  EXPECT_EQ(waiting->finish().reason, FinishReason::cancelled);
  EXPECT_TRUE(waiting->tokens().empty()) << "a cancelled request in the queue never runs";
}

TEST_F(EngineTest, DrainWaitsForRunningRequestsAndRefusesNewOnes) {
  start(small_limits());
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 10; ++i) sinks.push_back(submit(request_of(i, 100)));
  engine_->drain(600);
  for (const auto& sink : sinks) EXPECT_EQ(sink->finish().reason, FinishReason::length);
  EXPECT_EQ(refused(request_of(1, 1)), ErrorCode::exhausted);
}

TEST_F(EngineTest, DrainWithoutTimeCancels) {
  with_gate_ = true;
  start(small_limits());
  const auto sink = submit(request_of(1, 400));
  gate_.wait_for_arrival();
  std::thread drainer([this] { engine_->drain(0); });
  // The drainer cannot return before the gate opens: the request is inside a step.
  EXPECT_FALSE(sink->has_finished());
  gate_.open();
  drainer.join();
  EXPECT_TRUE(sink->has_finished());
}

TEST_F(EngineTest, DestructionDeliversTerminalEvents) {
  with_gate_ = true;
  start(small_limits());
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 7; ++i) sinks.push_back(submit(request_of(i, 400)));
  gate_.open();
  engine_.reset();
  for (const auto& sink : sinks) EXPECT_TRUE(sink->has_finished());
}

TEST_F(EngineTest, AfterTheExecutorFailsEverythingIsAnsweredWithAnError) {
  with_gate_ = true;
  start(small_limits());
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 6; ++i) sinks.push_back(submit(request_of(i, 400)));
  gate_.wait_for_arrival();
  executor_->failure = "device lost";  // the engine thread is held inside on_run
  gate_.open();
  for (const auto& sink : sinks) sink->wait_for_finish();
  for (const auto& sink : sinks) EXPECT_EQ(sink->finish().error, "device lost");
  engine_->drain(60);
  EXPECT_TRUE(engine_->stats().has_failed);
  EXPECT_EQ(refused(request_of(1, 1)), ErrorCode::internal);
}

TEST_F(EngineTest, ManyClientsAtOnce) {
  start(small_limits());
  std::atomic<int> ended{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([this, client, &ended] {
      for (int i = 0; i < 50; ++i) {
        RequestId id = 0;
        const auto sink = submit(request_of(client * 100 + i, 1 + i % 40), &id);
        if (i % 5 == 0) {
          sink->wait_for_tokens(static_cast<size_t>(i % 3));
          engine_->cancel(id);
        }
        (void)engine_->stats();
        sink->wait_for_finish();
        ++ended;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  engine_->drain(60);
  EXPECT_EQ(ended, 200);
  EXPECT_EQ(engine_->stats().finished, 200u);
}

}  // namespace
}  // namespace nibble::runtime
