// Tests for instruction set levels: order, names, forced choices and their errors.
#include "base/cpu_features.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <set>
#include <string>
#include <vector>

namespace nibble {
namespace {

TEST(CpuFeatures, LevelsCountUpFromScalar) {
  EXPECT_EQ(isa_levels_up_to(IsaLevel::scalar), std::vector<IsaLevel>{IsaLevel::scalar});
  const std::vector<IsaLevel> all = isa_levels_up_to(IsaLevel::avx512_dot);
  EXPECT_EQ(all, (std::vector<IsaLevel>{IsaLevel::scalar, IsaLevel::avx2, IsaLevel::avx512,
                                        IsaLevel::avx512_dot}));
  std::set<std::string> names;
  for (const IsaLevel level : all) names.insert(isa_level_name(level));
  EXPECT_EQ(names, (std::set<std::string>{"scalar", "avx2", "avx512", "avx512_dot"}));
}

TEST(CpuFeatures, DetectionAgreesWithTheCompilersOwn) {
  // The compiler's run-time checks cover what separates the first three levels (F16C and BMI2 come
  // with every processor that has AVX2).
  const IsaLevel level = detect_isa_level();
  const bool avx2 = __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
  const bool avx512 =
      __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  EXPECT_TRUE(avx2 || level == IsaLevel::scalar);
  EXPECT_TRUE(avx512 || level < IsaLevel::avx512);
  EXPECT_TRUE(level >= IsaLevel::avx512 || !avx2 || !avx512);
}

TEST(CpuFeatures, ForcedLevelWinsWhenTheMachineHasIt) {
  const IsaLevel best = detect_isa_level();
  EXPECT_EQ(select_isa_level("").value(), best);
  for (const IsaLevel level : isa_levels_up_to(best)) {
    EXPECT_EQ(select_isa_level(isa_level_name(level)).value(), level);
  }
}

TEST(CpuFeatures, UnknownForcedLevelListsTheValidOnes) {
  const Result<IsaLevel> level = select_isa_level("sse9");
  ASSERT_FALSE(level.ok());
  EXPECT_NE(level.error().message.find("'sse9'"), std::string::npos);
  EXPECT_NE(level.error().message.find("scalar"), std::string::npos);
}

TEST(CpuFeatures, PhysicalCoresAreDistinctAndAllowed) {
  const std::vector<int> cores = usable_physical_cores();
  ASSERT_FALSE(cores.empty());
  EXPECT_EQ(std::set<int>(cores.begin(), cores.end()).size(), cores.size());
  cpu_set_t mask;
  CPU_ZERO(&mask);
  ASSERT_EQ(sched_getaffinity(0, sizeof mask, &mask), 0);
  for (const int core : cores) EXPECT_TRUE(CPU_ISSET(static_cast<size_t>(core), &mask));
}

}  // namespace
}  // namespace nibble
