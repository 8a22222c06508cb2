// nibble bench engine: prefill and decode speed in this process, with the bytes that had to be
// read.
//
// Random token ids, different for every sequence. The timed steps' routing is logged, so bytes per
// step come from the experts that were really touched. A non-finite logit voids the run.
#include "base/json.h"
#include "base/sizes.h"
#include "bench/engine_bench.h"
#include "bench/read_bandwidth.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace nibble::cli {
namespace {

std::string test_name(const bench::EngineTest& test) {
  std::string name = test.prompt_tokens > 0 ? fmt::format("pp{}", test.prompt_tokens)
                                            : fmt::format("tg{}", test.generated_tokens);
  if (test.depth > 0) name += fmt::format("@d{}", test.depth);
  if (test.sequences > 1) name += fmt::format("x{}", test.sequences);
  return name;
}

OrderedJson to_json(const bench::EngineTest& test, const bench::EngineTestResult& result) {
  return {{"test", test_name(test)},
          {"prompt_tokens", test.prompt_tokens},
          {"generated_tokens", test.generated_tokens},
          {"depth", test.depth},
          {"sequences", test.sequences},
          {"tokens_per_second",
           {{"min", result.tokens_per_second.min},
            {"median", result.tokens_per_second.median},
            {"max", result.tokens_per_second.max},
            {"samples", result.tokens_per_second.samples}}},
          {"bytes_per_step", result.bytes_per_step},
          {"gigabytes_per_second", result.gigabytes_per_second},
          {"distinct_experts_per_layer",
           {{"min", result.min_distinct_experts}, {"mean", result.mean_distinct_experts}}}};
}

void print_row(const bench::EngineTest& test, const bench::EngineTestResult& r) {
  fmt::print("{:<16} {:>10.2f} {:>10.2f} {:>10.2f}   {:>10}  {:>7.2f} GB/s  {:>6.1f} (least {})\n",
             test_name(test), r.tokens_per_second.min, r.tokens_per_second.median,
             r.tokens_per_second.max, format_bytes(r.bytes_per_step), r.gigabytes_per_second,
             r.mean_distinct_experts, r.min_distinct_experts);
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
  // Before the model is loaded: the buffer is as large as some models. Host memory only.
  const bool on_gpu = options.model.device.starts_with("cuda");
  const double read_bandwidth =
      on_gpu ? 0 : bench::measure_read_bandwidth(*make_thread_pool(options.model.threads));
  auto session = ModelSession::open(options.model, needs);
  if (!session.ok()) return report_error(session.error());
  ModelSession& s = *session.value();
  const auto made =
      bench::EngineBench::create(s.executor(), s.device(), s.config(), s.capacity(),
                                 bench::read_costs(s.device(), s.source(), s.kv_dtype()));
  if (!made.ok()) return report_error(made.error());
  bench::EngineBench& engine = *made.value();

  if (!options.json) {
    fmt::print("{} - {}, {} weights, KV {}\n", options.model.model, s.device().description(),
               format_bytes(static_cast<int64_t>(s.packed_weight_bytes())),
               dtype_name(s.kv_dtype()));
    if (read_bandwidth > 0) fmt::print("host memory reads at {:.1f} GB/s\n", read_bandwidth);
    fmt::print("{:<16} {:>10} {:>10} {:>10}   {:>10}  {:>12}  experts per layer and step\n", "test",
               "min t/s", "median", "max", "read/step", "read");
  }
  OrderedJson rows = OrderedJson::array();
  for (const bench::EngineTest& test : tests) {
    const auto result =
        engine.run(test, options.repetitions, [] { return interrupt_signal() == 0; });
    if (!result.ok()) return report_error(result.error());
    if (options.json) {
      rows.push_back(to_json(test, result.value()));
    } else {
      print_row(test, result.value());
    }
  }
  if (options.json) {
    const OrderedJson out = {{"model", options.model.model},
                             {"device", s.device().description()},
                             {"weight_bytes", s.packed_weight_bytes()},
                             {"kv_dtype", dtype_name(s.kv_dtype())},
                             {"read_bandwidth_gbps", read_bandwidth},
                             {"repetitions", options.repetitions},
                             {"tests", rows}};
    fmt::print("{}\n", dump_json(out, 2));
  }
  return kExitOk;
}

}  // namespace nibble::cli
