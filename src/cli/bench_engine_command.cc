// nibble bench engine: prefill and decode speed in this process, with the bytes that had to be
// read.
//
// Random token ids, different for every sequence. The timed steps' routing is logged, so bytes per
// step come from the experts that were really touched; their share is of the read bandwidth that
// was measured in this process. On a GPU also power, temperature and clocks. A non-finite logit
// voids the run.
#include "base/json.h"
#include "base/sizes.h"
#include "bench/engine_bench.h"
#include "bench/read_bandwidth.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/gpu_sensors.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <optional>
#include <utility>

namespace nibble::cli {
namespace {

std::string test_name(const bench::EngineTest& test) {
  std::string name = test.prompt_tokens > 0 ? fmt::format("pp{}", test.prompt_tokens)
                                            : fmt::format("tg{}", test.generated_tokens);
  if (test.depth > 0) name += fmt::format("@d{}", test.depth);
  if (test.sequences > 1) name += fmt::format("x{}", test.sequences);
  return name;
}

/// What was measured about the machine.
struct Machine {
  double read_gbps = 0;
  std::unique_ptr<device::GpuSensors> sensors;  // null: CPU, or none
  std::string no_sensors;  // why
};

Result<Machine> look_at(const ModelOptions& options) {
  Machine out;
  NIBBLE_ASSIGN_OR_RETURN(const std::optional<int> gpu,
                          chosen_gpu(options.device, options.arithmetic));
  if (!gpu) {
    out.read_gbps = bench::measure_read_bandwidth(*make_thread_pool(options.threads));
    return out;
  }
  NIBBLE_ASSIGN_OR_RETURN(const double bytes_per_second, device::cuda_read_bandwidth(*gpu));
  out.read_gbps = 1e-9 * bytes_per_second;
  auto sensors = device::open_gpu_sensors(*gpu);
  if (sensors.ok()) {
    out.sensors = std::move(sensors).value();
  } else {
    out.no_sensors = sensors.error().message;
  }
  return out;
}

OrderedJson to_json(const bench::EngineTest& test, const bench::EngineTestResult& result,
                    const Machine& machine) {
  OrderedJson blocks = OrderedJson::array();
  for (const runtime::BlockTime& block : result.blocks) {
    blocks.push_back(
        {{"block", block.name}, {"layers", block.layers}, {"us", 1e6 * block.seconds}});
  }
  OrderedJson out = {
      {"test", test_name(test)},
      {"prompt_tokens", test.prompt_tokens},
      {"generated_tokens", test.generated_tokens},
      {"depth", test.depth},
      {"sequences", test.sequences},
      {"tokens_per_second",
       {{"min", result.tokens_per_second.min},
        {"median", result.tokens_per_second.median},
        {"max", result.tokens_per_second.max},
        {"samples", result.tokens_per_second.samples}}},
      {"step_us", 1e6 * result.step_seconds},
      {"bytes_per_step", result.bytes_per_step},
      {"gigabytes_per_second", result.gigabytes_per_second},
      {"share_of_read_bandwidth", result.gigabytes_per_second / machine.read_gbps},
      {"distinct_experts_per_layer",
       {{"min", result.min_distinct_experts}, {"mean", result.mean_distinct_experts}}},
      {"blocks", blocks}};
  if (machine.sensors != nullptr) {
    const device::GpuReading now = machine.sensors->read();
    const OrderedJson watts = result.watts > 0 ? OrderedJson(result.watts) : OrderedJson(nullptr);
    out["gpu"] = {{"watts", watts},
                  {"celsius", now.celsius},
                  {"sm_mhz", now.sm_mhz},
                  {"memory_mhz", now.memory_mhz}};
  }
  return out;
}

void print_row(const bench::EngineTest& test, const bench::EngineTestResult& r,
               const Machine& machine) {
  fmt::print(
      "{:<16} {:>10.2f} {:>10.2f} {:>10.2f}   {:>10}  {:>7.2f} GB/s = {:>4.1f} %  {:>6.1f} (least "
      "{})\n",
      test_name(test), r.tokens_per_second.min, r.tokens_per_second.median, r.tokens_per_second.max,
      format_bytes(r.bytes_per_step), r.gigabytes_per_second,
      100 * r.gigabytes_per_second / machine.read_gbps, r.mean_distinct_experts,
      r.min_distinct_experts);
  fmt::print("    a step {:.0f} us; by themselves:", 1e6 * r.step_seconds);
  for (const runtime::BlockTime& block : r.blocks) {
    fmt::print(" {} {:.0f} us ({})", block.name, 1e6 * block.seconds, block.layers);
  }
  if (machine.sensors != nullptr) {
    const device::GpuReading now = machine.sensors->read();
    const std::string power =
        r.watts > 0 ? fmt::format("{:.0f} W", r.watts) : "too short for watts";
    fmt::print("; {}, {} C, SM {} MHz, memory {} MHz", power, now.celsius, now.sm_mhz,
               now.memory_mhz);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

void print_head(const BenchEngineOptions& options, ModelSession& session, const Machine& machine) {
  fmt::print("{} - {}, {} weights, KV {}, loaded in {:.1f} s\n", options.model.model,
             session.device().description(),
             format_bytes(static_cast<int64_t>(session.packed_weight_bytes())),
             dtype_name(session.kv_dtype()), session.load_seconds());
  fmt::print("memory reads at {:.1f} GB/s\n", machine.read_gbps);
  if (!machine.no_sensors.empty()) fmt::print("no power readings: {}\n", machine.no_sensors);
  fmt::print("{:<16} {:>10} {:>10} {:>10}   {:>10}  {:>21}  experts per layer and step\n", "test",
             "min t/s", "median", "max", "read/step", "read, share");
}

// Every combination that was asked for: prompts, then decodes.
std::vector<bench::EngineTest> tests_of(const BenchEngineOptions& options) {
  std::vector<bench::EngineTest> tests;
  for (const int64_t depth : options.depths) {
    for (const int64_t sequences : options.sequences) {
      for (const int64_t prompt : options.prompt_tokens) {
        if (prompt > 0) tests.push_back({prompt, 0, depth, sequences});
      }
      for (const int64_t generated : options.generated_tokens) {
        if (generated > 0) tests.push_back({0, generated, depth, sequences});
      }
    }
  }
  return tests;
}

}  // namespace

int run_bench_engine(const BenchEngineOptions& options) {
  const std::vector<bench::EngineTest> tests = tests_of(options);
  SessionNeeds needs;
  needs.max_num_seqs = 1;
  int64_t longest = 0;
  for (const bench::EngineTest& test : tests) {
    needs.max_num_seqs = std::max(needs.max_num_seqs, static_cast<int32_t>(test.sequences));
    longest = std::max(longest, test.depth + test.prompt_tokens + test.generated_tokens + 1);
  }
  needs.max_model_len = static_cast<int32_t>(longest);
  // Before the model is loaded: the buffer is as large as some models.
  const auto looked = look_at(options.model);
  if (!looked.ok()) return report_error(looked.error());
  const Machine& machine = looked.value();
  std::function<double()> joules;
  if (machine.sensors != nullptr) {
    joules = [&machine] { return machine.sensors->read().joules; };
  }
  auto session = ModelSession::open(options.model, needs);
  if (!session.ok()) return report_error(session.error());
  ModelSession& s = *session.value();
  const auto made =
      bench::EngineBench::create(s.executor(), s.device(), s.config(), s.capacity(),
                                 bench::read_costs(s.device(), s.source(), s.kv_dtype()));
  if (!made.ok()) return report_error(made.error());
  bench::EngineBench& engine = *made.value();

  if (!options.json) print_head(options, s, machine);
  OrderedJson rows = OrderedJson::array();
  for (const bench::EngineTest& test : tests) {
    const auto result = engine.run(
        test, options.repetitions, [] { return interrupt_signal() == 0; }, joules);
    if (!result.ok()) return report_error(result.error());
    if (options.json) {
      rows.push_back(to_json(test, result.value(), machine));
    } else {
      print_row(test, result.value(), machine);
    }
  }
  if (options.json) {
    const OrderedJson out = {{"model", options.model.model},
                             {"device", s.device().description()},
                             {"weight_bytes", s.packed_weight_bytes()},
                             {"kv_dtype", dtype_name(s.kv_dtype())},
                             {"load_seconds", s.load_seconds()},
                             {"read_bandwidth_gbps", machine.read_gbps},
                             {"repetitions", options.repetitions},
                             {"tests", rows}};
    fmt::print("{}\n", dump_json(out, 2));
  }
  return kExitOk;
}

}  // namespace nibble::cli
