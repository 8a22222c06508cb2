// Tests for the log sink: a message is printed as it is, with its level.
#include "base/log.h"

#include <gtest/gtest.h>

#include <string>

namespace nibble {
namespace {

TEST(Log, PrintsLevelAndMessageUnchanged) {
  testing::internal::CaptureStderr();
  log_warning("loud {}");
  log_error("broken");
  const std::string out = testing::internal::GetCapturedStderr();
  EXPECT_NE(out.find("warning"), std::string::npos);
  EXPECT_NE(out.find("loud {}"), std::string::npos);
  EXPECT_NE(out.find("error"), std::string::npos);
}

}  // namespace
}  // namespace nibble
