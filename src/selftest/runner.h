// Runner: one case on the double reference and on every device that is checked, compared part by
// part.
//
// Relative L2 of a part against the reference: sqrt(sum (a - b)^2 / sum b^2). Where the limits come
// from: the rounding errors of f32 sums of up to 4096 terms add like a random walk, sqrt(4096) *
// 2^-24 = 4e-6, and exp and rsqrt of 2 ulp are far below that; one rounding to BF16 that falls the
// other way on the two sides moves an element by at most 2 * 2^-9.
#pragma once

#include "device/device.h"
#include "selftest/selftest.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace nibble::selftest {

inline constexpr double kEqual = 0;
inline constexpr double kF32Limit = 4e-6;
inline constexpr double kBf16Ulp = 0x1p-9;
inline constexpr double kBf16Limit = 2 * kBf16Ulp;

/// Infinite where the sizes differ.
double relative_l2(const std::vector<float>& found, const std::vector<float>& wanted);

/// One output of a case, on one device.
struct Part {
  std::string name;
  std::vector<float> values;
  double limit = kEqual;  // relative L2
};

class Runner {
 public:
  using Body = std::function<std::vector<Part>(device::Device&)>;

  Runner(device::Device& reference, std::span<device::Device* const> devices, const Sink& sink)
      : reference_(reference), devices_(devices), sink_(sink) {}

  device::Arithmetic arithmetic() const { return reference_.arithmetic(); }
  bool is_exact() const { return arithmetic() == device::Arithmetic::exact; }
  device::Device& reference() { return reference_; }
  std::span<device::Device* const> devices() const { return devices_; }

  /// Checks belong to `group` from here on; the workspaces are those of the model.
  void start(const std::string& group);
  void set_workspace(const device::WorkspaceSpec& spec);
  /// `body` makes the same inputs on every device it is called with. "name part" is one
  /// check.
  void compare(const std::string& name, const Body& body);
  void judge(const device::Device& device, const std::string& name, double found, double limit);

 private:
  device::Device& reference_;
  std::span<device::Device* const> devices_;
  const Sink& sink_;
  std::string group_;
};

// The groups of checks: one family of operations each, shapes of the 35B-A3B model and odd ones.
void check_linear(Runner& runner);
void check_rows(Runner& runner);
void check_sampling(Runner& runner);
void check_attention(Runner& runner);
void check_delta(Runner& runner);
void check_attention_blocks(Runner& runner);
void check_delta_blocks(Runner& runner);
void check_expert_blocks(Runner& runner);
void check_heads(Runner& runner);
void check_experts(Runner& runner);
void check_fp8(Runner& runner);
void check_fp4(Runner& runner);

/// Activation buffers of the 35B-A3B model.
device::WorkspaceSpec model_workspace(int64_t rows);

}  // namespace nibble::selftest
