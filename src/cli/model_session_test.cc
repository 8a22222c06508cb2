// Tests for the device a command line chooses: what --activations refuses.
#include "cli/model_session.h"

#include "cli/arguments.h"

#include <gtest/gtest.h>

namespace nibble::cli {
namespace {

TEST(DeviceChoice, RoundedActivationsNeedAGpu) {
  const auto made = make_compute_device({"cpu", "exact", 1, "fp8"});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::invalid_argument);
  for (const char* part : {"--activations fp8", "found device cpu", "wanted a GPU"}) {
    EXPECT_NE(made.error().message.find(part), std::string::npos) << made.error().message;
  }
  EXPECT_TRUE(make_compute_device({"cpu", "exact", 1, "full"}).ok());
}

TEST(DeviceChoice, EveryCommandThatRunsAModelTakesTheFlag) {
  using Arguments = std::vector<std::string>;
  for (const Arguments& command : {Arguments{"serve"}, Arguments{"chat"}, Arguments{"eval", "kld"},
                                   Arguments{"bench", "engine"}}) {
    Arguments words = command;
    words.insert(words.end(), {"model", "--activations", "fp8"});
    const std::variant<Command, ParseExit> parsed = parse_arguments(words);
    ASSERT_TRUE(std::holds_alternative<Command>(parsed)) << command.back();
    const bool wished = std::visit(
        [](const auto& options) {
          if constexpr (requires { options.model.activations; }) {
            return device_choice(options.model).activations == "fp8";
          }
          return false;
        },
        std::get<Command>(parsed));
    EXPECT_TRUE(wished) << command.back();
  }
}

}  // namespace
}  // namespace nibble::cli
