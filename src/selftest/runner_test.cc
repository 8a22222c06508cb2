// Tests for Runner: what counts as a failed check. The checks themselves need no test: a device
// that is wrong fails them.
#include "selftest/runner.h"

#include "device/reference/reference_device.h"

#include <gtest/gtest.h>

#include <cmath>

namespace nibble::selftest {
namespace {

// Compares one part, `found` on the device and `wanted` on the reference.
Check compare(const std::vector<float>& found, const std::vector<float>& wanted, double limit) {
  ThreadPool pool(1, {});
  const auto reference = device::make_reference_device(device::Arithmetic::exact, pool);
  const auto checked = device::make_reference_device(device::Arithmetic::exact, pool);
  device::Device* devices[] = {checked.get()};
  std::vector<Check> checks;
  const Sink sink = [&](const Check& check) { checks.push_back(check); };
  Runner runner(*reference, devices, sink);
  runner.compare("case", [&](device::Device& device) {
    return std::vector<Part>{{"part", &device == checked.get() ? found : wanted, limit}};
  });
  EXPECT_EQ(checks.size(), 1u);
  EXPECT_EQ(checks[0].name, "exact case part");
  return checks[0];
}

TEST(Runner, RelativeErrorWithinTheLimitPasses) {
  EXPECT_TRUE(compare({3.0f, 4.0f}, {3.0f, 4.0f}, kEqual).passed());
  const Check check = compare({3.0f, 4.5f}, {3.0f, 4.0f}, 0.1);
  EXPECT_DOUBLE_EQ(check.found, 0.1);
  EXPECT_TRUE(check.passed());
}

TEST(Runner, LargerErrorsNotANumberAndMissingElementsFail) {
  EXPECT_FALSE(compare({3.0f, 4.5f}, {3.0f, 4.0f}, 0.09).passed());
  EXPECT_FALSE(compare({3.0f, NAN}, {3.0f, 4.0f}, 0.1).passed());
  EXPECT_FALSE(compare({3.0f}, {3.0f, 4.0f}, 0.1).passed());
  EXPECT_FALSE(compare({0.0f, 1.0f}, {0.0f, 0.0f}, 0.1).passed());
}

}  // namespace
}  // namespace nibble::selftest
