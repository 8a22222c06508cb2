// Tests for event_queue: order, wake-ups, the bound, and silence after close().
#include "server/event_queue.h"

#include <gtest/gtest.h>

#include <thread>

namespace nibble::server {
namespace {

runtime::Delta text(const std::string& s) {
  runtime::Delta delta;
  delta.text = s;
  return delta;
}

TEST(EventQueue, KeepsOrderAndWakesOncePerBatch) {
  auto queue = std::make_shared<EventQueue>(1000000);
  int wakes = 0;
  queue->set_wake([&wakes] { ++wakes; });
  const auto sink = make_sink(queue, 3);
  sink->on_delta(1, text("a"));
  sink->on_delta(1, text("b"));
  sink->on_finish(1, {});
  EXPECT_EQ(wakes, 1);
  const std::vector<EngineEvent> events = queue->take();
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].choice, 3);
  EXPECT_EQ(std::get<runtime::Delta>(events[0].what).text, "a");
  EXPECT_EQ(std::get<runtime::Delta>(events[1].what).text, "b");
  EXPECT_TRUE(std::holds_alternative<runtime::Finish>(events[2].what));
  EXPECT_TRUE(queue->take().empty());
  sink->on_delta(1, text("c"));
  EXPECT_EQ(wakes, 2);
}

TEST(EventQueue, WakesAtOnceIfSomethingWaits) {
  auto queue = std::make_shared<EventQueue>(1000000);
  make_sink(queue, 0)->on_delta(1, text("a"));
  int wakes = 0;
  queue->set_wake([&wakes] { ++wakes; });
  EXPECT_EQ(wakes, 1);
}

TEST(EventQueue, OverflowDropsDeltasButNotTheEnd) {
  auto queue = std::make_shared<EventQueue>(1000);
  int wakes = 0;
  queue->set_wake([&wakes] { ++wakes; });
  const auto sink = make_sink(queue, 0);
  sink->on_delta(1, text("a"));
  EXPECT_FALSE(queue->overflowed());
  sink->on_delta(1, text(std::string(2000, 'x')));
  EXPECT_TRUE(queue->overflowed());
  EXPECT_EQ(wakes, 2) << "overflow wakes although the queue was not empty";
  sink->on_delta(1, text("lost: nothing may follow a gap"));
  sink->on_finish(1, {});
  const std::vector<EngineEvent> events = queue->take();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<runtime::Finish>(events[1].what));
  EXPECT_TRUE(queue->overflowed()) << "for good";
}

TEST(EventQueue, TakingMakesRoom) {
  auto queue = std::make_shared<EventQueue>(2000);
  const auto sink = make_sink(queue, 0);
  for (int i = 0; i < 100; ++i) {
    sink->on_delta(1, text(std::string(1000, 'x')));
    EXPECT_EQ(queue->take().size(), 1u);
  }
  EXPECT_FALSE(queue->overflowed());
}

TEST(EventQueue, NoWakeAfterClose) {
  auto queue = std::make_shared<EventQueue>(1000000);
  auto alive = std::make_unique<int>(0);
  queue->set_wake([&alive] { ++*alive; });
  const auto sink = make_sink(queue, 0);
  std::thread engine([&sink] {
    for (int i = 0; i < 1000; ++i) sink->on_delta(1, text("a"));
  });
  for (int i = 0; i < 10; ++i) (void)queue->take();
  queue->close();
  alive.reset();  // a wake from now on would write through null
  engine.join();
  EXPECT_TRUE(queue->take().empty());
}

}  // namespace
}  // namespace nibble::server
