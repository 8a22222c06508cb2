// nibble selftest: every kernel of a device against the double reference, as a table.
//
// The CPU is checked at every instruction set level this machine has. The exit code is kExitFailure
// when a check failed.
#include "base/cpu_features.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/model_session.h"
#include "device/cpu/cpu_device.h"
#include "device/cuda/cuda_device.h"
#include "selftest/selftest.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <utility>

namespace nibble::cli {
namespace {

using device::Activations;
using device::Arithmetic;
using selftest::Check;

using Devices = std::vector<std::unique_ptr<device::Device>>;

/// How the devices of one pass compute.
struct Mode {
  Arithmetic arithmetic = Arithmetic::exact;
  Activations activations = Activations::full;
};

/// Empty where there are none of this mode.
Result<Devices> open_devices(const SelftestOptions& options, const Mode& mode, ThreadPool& pool) {
  Devices out;
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<int> gpu, chosen_gpu(options.device, "exact"));
  if (!gpu) {
    if (mode.activations != Activations::full) return out;
    for (const IsaLevel level : isa_levels_up_to(detect_isa_level())) {
      out.push_back(device::make_cpu_device(mode.arithmetic, level, pool));
    }
    return out;
  }
  NIBBLE_ASSIGN_OR_RETURN(const device::CudaDeviceInfo info, device::cuda_device_info(*gpu));
  if (mode.activations == Activations::fp8 && !device::has_fp8_activations(info)) return out;
  NIBBLE_ASSIGN_OR_RETURN(auto device,
                          device::make_cuda_device(mode.arithmetic, {*gpu, mode.activations}));
  out.push_back(std::move(device));
  return out;
}

/// One line of the table: a group of checks on one device.
struct Line {
  int checks = 0, failed = 0;
  double largest = 0;  // found / limit, of checks with a limit
  std::string of;
};

class Table {
 public:
  void add(const Check& check) {
    auto [at, added] = lines_.try_emplace({check.device, check.group});
    if (added) order_.push_back(at->first);
    Line& line = at->second;
    ++line.checks;
    if (!check.passed()) {
      ++line.failed;
      fmt::print(stderr, "FAILED {}: {} {}: found {:.3g}, limit {:.3g}\n", check.device,
                 check.group, check.name, check.found, check.limit);
    }
    if (check.limit > 0 && check.found / check.limit > line.largest) {
      line.largest = check.found / check.limit;
      line.of = check.name;
    }
  }
  void print() const {
    fmt::print("{:<40} {:<16} {:>7} {:>7}  {}\n", "device", "operations", "checks", "failed",
               "largest share of a limit");
    for (const auto& key : order_) {
      const Line& line = lines_.at(key);
      fmt::print("{:<40} {:<16} {:>7} {:>7}  {:.3f} {}\n", key.first, key.second, line.checks,
                 line.failed, line.largest, line.of);
    }
  }

 private:
  using Key = std::pair<std::string, std::string>;
  std::map<Key, Line> lines_;
  std::vector<Key> order_;
};

}  // namespace

int run_selftest(const SelftestOptions& options) {
  const auto pool = make_thread_pool(options.threads);
  Table table;
  OrderedJson checks = OrderedJson::array();
  int count = 0, failed = 0;
  const auto sink = [&](const Check& check) {
    ++count;
    failed += check.passed() ? 0 : 1;
    table.add(check);
    if (!options.json) return;
    checks.push_back({{"device", check.device},
                      {"operations", check.group},
                      {"check", check.name},
                      {"found", check.found},
                      {"limit", check.limit},
                      {"passed", check.passed()}});
  };
  const Mode modes[] = {{Arithmetic::exact},
                        {Arithmetic::f32},
                        {Arithmetic::exact, Activations::fp8},
                        {Arithmetic::exact, Activations::nvfp4}};
  for (const Mode& mode : modes) {
    auto devices = open_devices(options, mode, *pool);
    if (!devices.ok()) return report_error(devices.error());
    if (devices.value().empty()) continue;
    std::vector<device::Device*> views;
    for (const auto& device : devices.value()) views.push_back(device.get());
    const Result<void> done = selftest::run(views, options.only, *pool, sink);
    if (!done.ok()) return report_error(done.error());
  }
  if (options.json) {
    const OrderedJson out = {{"checks", count}, {"failed", failed}, {"results", checks}};
    fmt::print("{}\n", dump_json(out, 2));
  } else {
    table.print();
    fmt::print("{} checks, {} failed\n", count, failed);
  }
  return failed == 0 ? kExitOk : kExitFailure;
}

}  // namespace nibble::cli
