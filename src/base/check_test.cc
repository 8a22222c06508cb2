// Tests for NIBBLE_CHECK: aborts in every build, naming file, condition and values.
#include "base/check.h"

#include <gtest/gtest.h>

namespace nibble {
namespace {

TEST(CheckDeathTest, NamesPlaceConditionAndValues) {
  const int rows = 3;
  EXPECT_DEATH(NIBBLE_CHECK(rows == 4, "row count", rows, "wanted", 4),
               "check_test\\.cc:[0-9]+: row count \\(rows == 4\\) \\[3\\] \\[wanted\\] \\[4\\]");
  EXPECT_DEATH(NIBBLE_CHECK(rows < 0, "no values"), "no values \\(rows < 0\\)");
}

TEST(Check, PassesSilentlyAndEvaluatesOnce) {
  int evaluations = 0;
  NIBBLE_CHECK(++evaluations > 0, "never printed", evaluations);
  EXPECT_EQ(evaluations, 1);
}

TEST(CheckDeathTest, DcheckIsActiveExactlyInDebugBuilds) {
#ifdef NDEBUG
  int evaluations = 0;
  NIBBLE_DCHECK(++evaluations < 0, "compiled out");
  EXPECT_EQ(evaluations, 0);
#else
  EXPECT_DEATH(NIBBLE_DCHECK(1 > 2, "debug only"), "debug only");
#endif
}

}  // namespace
}  // namespace nibble
