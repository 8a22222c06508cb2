// Tests for the log sink: levels, and JSON lines that stay valid whatever the message holds.
#include "base/log.h"

#include "base/json.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <string>

namespace nibble {
namespace {

// Captures what `write` logs on standard error.
template <typename Write>
std::string logged(LogLevel level, LogFormat format, const Write& write) {
  testing::internal::CaptureStderr();
  configure_log(level, format);
  write();
  return testing::internal::GetCapturedStderr();
}

TEST(Log, DropsWhatIsBelowTheLevel) {
  const std::string out = logged(LogLevel::warning, LogFormat::text, [] {
    log_info("quiet");
    log_warning("loud {}");
  });
  EXPECT_EQ(out.find("quiet"), std::string::npos);
  EXPECT_NE(out.find("loud {}"), std::string::npos);
}

TEST(Log, JsonLinesParse) {
  const std::string out = logged(LogLevel::info, LogFormat::json,
                                 [] { log_error("a \"quoted\" \\ path\nand a line"); });
  const Result<Json> line = parse_json(out, "log line");
  ASSERT_TRUE(line.ok()) << line.error().message << out;
  EXPECT_EQ(json_string(line.value(), "level", "log").value(), "error");
  EXPECT_EQ(json_string(line.value(), "message", "log").value(), "a \"quoted\" \\ path and a line");
}

}  // namespace
}  // namespace nibble
