// Selftest: every kernel of a device against the double reference, on random data.
//
// Small operations on the model's shapes and odd ones, then the block operations of the 35B-A3B
// shapes without an Observer, so that fused kernels run. Limits are derived (runner.h), random data
// has fixed seeds. NIBBLE_CHECK ends the program when memory is missing.
#pragma once

#include "base/thread_pool.h"
#include "device/device.h"

#include <functional>
#include <span>
#include <string>
#include <vector>

namespace nibble::selftest {

struct Check {
  std::string device, group, name;
  double found = 0;
  double limit = 0;
  bool passed() const { return found <= limit; }  // false for NaN
};

/// Called once per check, in the order they ran.
using Sink = std::function<void(const Check&)>;

/// Names of the groups of checks, in the order they run.
std::vector<std::string> groups();

/// Checks `devices`, all of one arithmetic() and activations(). only: groups,
/// empty for all. The reference runs on the threads of `pool`. Devices' workspaces are replaced.
/// Errors: invalid_argument for a group that is none.
Result<void> run(std::span<device::Device* const> devices, const std::vector<std::string>& only,
                 ThreadPool& pool, const Sink& sink);

}  // namespace nibble::selftest
