// Tests of the scheduler: chunk grid, order, budget, admission, stalls without deadlock.
#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

namespace nibble::runtime {
namespace {

EngineLimits limits_of(int32_t seqs, int32_t batched, int32_t model_len, int32_t pages) {
  EngineLimits limits;
  limits.max_num_seqs = seqs;
  limits.max_num_batched_tokens = batched;
  limits.max_model_len = model_len;
  limits.num_pages = pages;
  return limits;
}

class SchedulerTest : public testing::Test {
 protected:
  void start(const EngineLimits& limits) { scheduler_ = std::make_unique<Scheduler>(limits); }

  Sequence& add(int32_t prompt, int32_t total) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = sequences_.size() + 1;
    sequence->tokens.assign(static_cast<size_t>(prompt), 1);
    sequence->num_prompt_tokens = prompt;
    sequence->max_total_tokens = total;
    scheduler_->add(*sequence);
    sequences_.push_back(std::move(sequence));
    return *sequences_.back();
  }

  struct Part {
    RequestId id;
    int32_t first, count;
    bool wants_token;
    bool operator==(const Part&) const = default;
  };

  /// One step; every wanted token is generated; a full sequence is removed.
  std::vector<Part> step() {
    scheduler_->admit();
    std::vector<ScheduledSequence> scheduled;
    for (const ScheduledSequence& part : scheduler_->schedule()) scheduled.push_back(part);
    scheduler_->advance();
    std::vector<Part> parts;
    for (const ScheduledSequence& part : scheduled) {
      Sequence& sequence = *part.sequence;
      parts.push_back({sequence.id, part.first_token, part.num_tokens, part.wants_token});
      if (part.wants_token) sequence.tokens.push_back(2);
      if (sequence.num_tokens() == sequence.max_total_tokens) scheduler_->remove(sequence);
    }
    scheduler_->check_invariants();
    return parts;
  }

  using Parts = std::vector<Part>;
  std::unique_ptr<Scheduler> scheduler_;
  std::vector<std::unique_ptr<Sequence>> sequences_;
};

TEST(PrefillChunk, EndsOnTheGridOrAtTheEndOfThePrompt) {
  EXPECT_EQ(prefill_chunk_end(0, 100, 100), 100);
  EXPECT_EQ(prefill_chunk_end(0, 100, 99), 64);
  EXPECT_EQ(prefill_chunk_end(64, 1000, 200), 256);
  EXPECT_EQ(prefill_chunk_end(0, 100, 63), 0);
  EXPECT_EQ(prefill_chunk_end(64, 70, 5), 64);
  EXPECT_EQ(prefill_chunk_end(64, 70, 6), 70);
  EXPECT_EQ(prefill_chunk_end(64, 1000, -3), 64);
}

TEST_F(SchedulerTest, DecodesFirstThenChunksInOrder) {
  start(limits_of(4, 200, 1000, 100));
  add(10, 20);
  EXPECT_EQ(step(), (Parts{{1, 0, 10, true}}));
  add(300, 400);
  add(100, 110);
  EXPECT_EQ(step(), (Parts{{1, 10, 1, true}, {2, 0, 192, false}}));
  EXPECT_EQ(step(), (Parts{{1, 11, 1, true}, {2, 192, 108, true}, {3, 0, 64, false}}));
  EXPECT_EQ(step(), (Parts{{1, 12, 1, true}, {2, 300, 1, true}, {3, 64, 36, true}}));
}

TEST_F(SchedulerTest, ATinyBudgetStillMakesProgress) {
  start(limits_of(2, 1, 1000, 100));
  add(10, 12);
  EXPECT_EQ(step(), (Parts{{1, 0, 10, true}}));
  add(130, 132);
  EXPECT_EQ(step(), (Parts{{1, 10, 1, true}, {2, 0, 64, false}}));
  EXPECT_EQ(step(), (Parts{{2, 64, 64, false}}));
  EXPECT_EQ(step(), (Parts{{2, 128, 2, true}}));
}

TEST_F(SchedulerTest, NobodyPassesTheHeadOfTheQueue) {
  start(limits_of(4, 1000, 640, 12));
  add(600, 640);  // ten pages, claims ten
  add(190, 200);  // three pages: only two are free
  add(10, 20);  // would fit
  EXPECT_EQ(step(), (Parts{{1, 0, 600, true}}));
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  scheduler_->remove(*sequences_[0]);
  EXPECT_EQ(step(), (Parts{{2, 0, 190, true}, {3, 0, 10, true}}));
}

TEST_F(SchedulerTest, NoPrefillPassesOneThatHasToWaitForTheNextStep) {
  start(limits_of(3, 100, 1000, 40));
  add(60, 70);
  add(300, 310);  // 40 rows are left: not a chunk
  add(10, 20);  // would fit them
  EXPECT_EQ(step(), (Parts{{1, 0, 60, true}}));
  EXPECT_EQ(step(), (Parts{{1, 60, 1, true}, {2, 0, 64, false}, {3, 0, 10, true}}));
}

TEST_F(SchedulerTest, ClaimsKeepTwoLongAnswersFromDeadlock) {
  // Ten pages; each sequence may need all ten. Worst-case reservation would run one at a time,
  // handing out pages freely would end with five each and nobody able to go on.
  start(limits_of(2, 1000, 640, 10));
  add(10, 640);
  step();
  EXPECT_EQ(scheduler_->num_running(), 1);
  add(10, 640);
  step();
  EXPECT_EQ(scheduler_->num_running(), 1) << "one page less and the first could not finish";
  add(10, 20);
  for (int i = 0; i < 2000 && scheduler_->num_running() + scheduler_->num_waiting() > 0; ++i)
    step();
  EXPECT_EQ(scheduler_->num_running() + scheduler_->num_waiting(), 0);
}

TEST_F(SchedulerTest, AStalledDecodeWaitsAndGoesOn) {
  // Eleven pages: 1 claims ten, 2 claims ten: safe while one of them can have all it misses.
  start(limits_of(2, 1000, 640, 11));
  Sequence& a = add(10, 640);
  Sequence& b = add(10, 640);
  step();
  EXPECT_EQ(scheduler_->num_running(), 2);
  int stalls = 0;
  int steps = 0;
  while (scheduler_->num_running() > 0) {
    ASSERT_FALSE(step().empty());
    stalls += (a.is_stalled || b.is_stalled) ? 1 : 0;
    ASSERT_LT(++steps, 2000);
  }
  EXPECT_GT(stalls, 100);
  EXPECT_EQ(a.num_tokens(), 640);
  EXPECT_EQ(b.num_tokens(), 640);
}

TEST_F(SchedulerTest, RemovalInEveryState) {
  start(limits_of(1, 64, 1000, 20));
  Sequence& running = add(100, 200);
  Sequence& waiting = add(10, 20);
  step();
  EXPECT_EQ(running.state, SequenceState::prefill);
  EXPECT_EQ(waiting.state, SequenceState::waiting);
  scheduler_->remove(waiting);
  scheduler_->check_invariants();
  scheduler_->remove(running);
  scheduler_->check_invariants();
  EXPECT_EQ(scheduler_->num_free_pages(), 20);
  EXPECT_EQ(scheduler_->num_free_slots(), 1);
  Sequence& decoding = add(10, 20);
  step();
  EXPECT_EQ(decoding.state, SequenceState::decode);
  scheduler_->remove(decoding);
  scheduler_->check_invariants();
  EXPECT_EQ(scheduler_->num_free_pages(), 20);
}

using SchedulerDeathTest = SchedulerTest;

TEST_F(SchedulerDeathTest, ASequenceInFlightCannotBeRemoved) {
  start(limits_of(1, 64, 1000, 20));
  Sequence& sequence = add(10, 20);
  scheduler_->admit();
  scheduler_->schedule();
  EXPECT_DEATH(scheduler_->remove(sequence), "in flight");
}

}  // namespace
}  // namespace nibble::runtime
