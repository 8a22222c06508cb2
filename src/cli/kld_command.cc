// nibble eval kld: KL divergence of a model against a base model or a base file (spec eval.md 3).
#include "base/file.h"
#include "base/sizes.h"
#include "cli/commands.h"
#include "cli/eval_result.h"
#include "cli/exit_codes.h"
#include "cli/kld_comparison.h"
#include "eval/kld/html_report.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace nibble::cli {
namespace {

constexpr size_t kRunningRows = 20;  // printed at most

void print_running(const eval::KldReport& report) {
  const size_t step = (report.running.size() + kRunningRows - 1) / kRunningRows;
  fmt::print("{:>9} {:>9} {:>10} {:>10} {:>11} {:>10}\n", "sequences", "tokens", "PPL(Q)",
             "PPL(base)", "KLD", "same top");
  for (size_t i = 0; i < report.running.size(); ++i) {
    if ((i + 1) % step != 0 && i + 1 != report.running.size()) continue;
    const eval::RunningValue& value = report.running[i];
    fmt::print("{:>9} {:>9} {:>10.4f} {:>10.4f} {:>11.7f} {:>8.2f} %\n", i + 1, value.tokens,
               value.perplexity, value.base_perplexity, value.mean_kld, 100 * value.same_top);
  }
  fmt::print("\n");
}

Result<void> report(const KldComparison& comparison, const KldOptions& options) {
  const eval::KldResult result = comparison.result();
  if (!options.eval.json) {
    print_running(result.report);
    fmt::print("{}", eval::kld_text(result));
  }
  OrderedJson json = result_head("kld", comparison.description(), options.eval, comparison.text());
  json.update(eval::kld_json(result));
  NIBBLE_RETURN_IF_ERROR(deliver_result(json, options.eval));
  if (options.html.empty()) return {};
  return write_file_atomic(options.html, eval::html_report(result));
}

Result<void> compare(const KldOptions& options) {
  KldComparison comparison(options);
  NIBBLE_RETURN_IF_ERROR(comparison.run());
  if (comparison.has_result()) return report(comparison, options);
  fmt::print("base   {} positions of {} written to {} ({})\n",
             eval::total_scored_tokens(comparison.text().sequences), options.model.model,
             options.save_base, format_bytes(comparison.base_file_bytes()));
  return {};
}

}  // namespace

int run_kld(const KldOptions& options) {
  const Result<void> done = compare(options);
  return done.ok() ? kExitOk : report_error(done.error());
}

}  // namespace nibble::cli
