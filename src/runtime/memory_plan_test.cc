// Tests of the memory plan and of reading the machine's memory limits.
#include "runtime/memory_plan.h"

#include "base/rng.h"
#include "runtime/host_memory.h"
#include "runtime/kv_pages.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace nibble::runtime {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

MemoryNeeds needs_of_tens() {
  MemoryNeeds needs;
  needs.weight_bytes = 100 * kMiB;
  needs.workspace_bytes = 20 * kMiB;
  needs.kv_page_bytes = kMiB;
  needs.state_slot_bytes = 10 * kMiB;
  needs.model_max_len = 64 * 100;
  return needs;
}

MemoryWishes wishes_of(size_t ceiling, int32_t seqs, int32_t len) {
  return {ceiling, "--memory", seqs, len};
}

MemoryPlan plan_or_die(const MemoryNeeds& needs, const MemoryWishes& wishes) {
  Result<MemoryPlan> plan = plan_memory(needs, wishes);
  EXPECT_TRUE(plan.ok());
  return std::move(plan).value();
}

TEST(MemoryPlan, EverythingFits) {
  const MemoryPlan plan = plan_or_die(needs_of_tens(), wishes_of(2000 * kMiB, 4, 0));
  EXPECT_EQ(plan.max_num_seqs, 4);
  EXPECT_EQ(plan.max_model_len, 6400);
  EXPECT_EQ(plan.num_pages, 400) << "no more than all sequences can use";
  EXPECT_EQ(plan.total_bytes, (120 + 40 + 400) * kMiB);
  EXPECT_TRUE(plan.adjusted.empty());
}

TEST(MemoryPlan, AContextLeftToUsSharesWithTheSlots) {
  // 100 MiB left: slots take at most half, pages the rest.
  const MemoryPlan plan = plan_or_die(needs_of_tens(), wishes_of(220 * kMiB, 8, 0));
  EXPECT_EQ(plan.max_num_seqs, 5);
  EXPECT_EQ(plan.num_pages, 50);
  EXPECT_EQ(plan.max_model_len, 3200);
  ASSERT_EQ(plan.adjusted.size(), 2u);
  EXPECT_EQ(plan.adjusted[0].find("adjusted: max_num_seqs 8 -> 5 because "), 0u);
  EXPECT_EQ(plan.adjusted[1].find("adjusted: max_model_len 6400 -> 3200 because "), 0u);
}

TEST(MemoryPlan, AContextThatWasAskedForGoesBeforeSequences) {
  const MemoryPlan plan = plan_or_die(needs_of_tens(), wishes_of(220 * kMiB, 8, 64 * 80));
  EXPECT_EQ(plan.max_num_seqs, 2);
  EXPECT_EQ(plan.max_model_len, 64 * 80);
  EXPECT_EQ(plan.num_pages, 80);
}

TEST(MemoryPlan, RefusalShowsTheSum) {
  const MemoryWishes wishes = wishes_of(125 * kMiB, 8, 0);
  const Result<MemoryPlan> plan = plan_memory(needs_of_tens(), wishes);
  ASSERT_FALSE(plan.ok());
  EXPECT_EQ(plan.error().code, ErrorCode::exhausted);
  for (const char* part : {"weights", "100.00 MiB", "workspace", "20.00 MiB", "total", "131.00 MiB",
                           "ceiling (--memory)", "125.00 MiB", "missing", "6.00 MiB"}) {
    EXPECT_NE(plan.error().message.find(part), std::string::npos) << part;
  }
}

TEST(MemoryPlan, WishesOutOfRangeAreRefused) {
  const MemoryNeeds needs = needs_of_tens();
  EXPECT_EQ(plan_memory(needs, wishes_of(2000 * kMiB, 0, 0)).error().code,
            ErrorCode::invalid_argument);
  EXPECT_EQ(plan_memory(needs, wishes_of(2000 * kMiB, 1, 6401)).error().code,
            ErrorCode::invalid_argument);
}

TEST(MemoryPlan, NeverAboveTheCeilingAndOneSequenceAlwaysFits) {
  Rng rng(5);
  int planned = 0;
  for (int i = 0; i < 5000; ++i) {
    MemoryNeeds needs;
    needs.weight_bytes = rng.below(1000);
    needs.workspace_bytes = rng.below(100);
    needs.kv_page_bytes = rng.below(50);
    needs.state_slot_bytes = rng.below(200);
    needs.logits_rows = 2;
    needs.vocab_size = static_cast<int64_t>(rng.below(20));
    needs.model_max_len = 2 + static_cast<int32_t>(rng.below(10000));
    MemoryWishes wishes = wishes_of(rng.below(8000), 1 + static_cast<int32_t>(rng.below(30)), 0);
    if (rng.below(2) == 0) {
      wishes.max_model_len =
          2 + static_cast<int32_t>(rng.below(static_cast<uint64_t>(needs.model_max_len - 1)));
    }
    const Result<MemoryPlan> result = plan_memory(needs, wishes);
    if (!result.ok()) continue;
    ++planned;
    const MemoryPlan& plan = result.value();
    EXPECT_LE(plan.total_bytes, wishes.ceiling_bytes);
    EXPECT_GE(plan.max_num_seqs, 1);
    EXPECT_GE(plan.max_model_len, 2);
    EXPECT_LE(pages_for_tokens(plan.max_model_len), plan.num_pages);
  }
  EXPECT_GT(planned, 2000);
}

TEST(MemoryPlan, OverflowIsARefusal) {
  MemoryNeeds needs = needs_of_tens();
  needs.logits_rows = int64_t{1} << 40;
  needs.vocab_size = int64_t{1} << 40;
  EXPECT_EQ(plan_memory(needs, wishes_of(2000 * kMiB, 1, 0)).error().code, ErrorCode::exhausted);
}

/// A folder with stand-ins for the kernel's files.
class HostMemoryTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(testing::TempDir()) /
            testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::remove_all(root_);
    put("proc/meminfo", "MemTotal:  9999999 kB\nMemAvailable:    4000000 kB\nSwapFree: 1 kB\n");
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  void put(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  size_t available() const {
    const Result<size_t> result =
        available_memory_bytes({(root_ / "proc").string(), (root_ / "cgroup").string()});
    EXPECT_TRUE(result.ok());
    return result.value();
  }

  std::filesystem::path root_;
};

TEST_F(HostMemoryTest, WithoutGroupsTheKernelsEstimate) {
  EXPECT_EQ(available(), size_t{4000000} * 1024);
}

TEST_F(HostMemoryTest, TheTightestGroupOnThePathCounts) {
  put("proc/self/cgroup", "0::/a/b\n");
  put("cgroup/a/b/memory.max", "max\n");
  put("cgroup/a/memory.max", "1000000\n");
  put("cgroup/a/memory.current", "700000\n");
  put("cgroup/a/memory.stat", "anon 1\ninactive_file 100000\n");
  EXPECT_EQ(available(), 400000u);
  put("cgroup/a/b/memory.max", "900\n");
  put("cgroup/a/b/memory.current", "1000\n");
  EXPECT_EQ(available(), 0u);
}

TEST_F(HostMemoryTest, VersionOneGroups) {
  put("proc/self/cgroup", "5:memory:/x\n");
  put("cgroup/memory/memory.limit_in_bytes", "5000\n");
  put("cgroup/memory/memory.usage_in_bytes", "3000\n");
  put("cgroup/memory/memory.stat", "total_inactive_file 500\n");
  EXPECT_EQ(available(), 2500u);
}

TEST(HostMemory, ThisMachineAnswers) {
  const Result<size_t> available = available_memory_bytes();
  ASSERT_TRUE(available.ok()) << available.error().message;
  EXPECT_LT(default_memory_ceiling(available.value()), available.value());
  EXPECT_EQ(default_memory_ceiling(1000), 0u);
}

}  // namespace
}  // namespace nibble::runtime
