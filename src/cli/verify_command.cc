// nibble quantize --verify DST --against SRC: every scale and code of a quantized checkpoint
// checked against its source.
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "cli/opened_checkpoint.h"
#include "cli/progress.h"
#include "quantize/verify.h"

#include <fmt/format.h>

#include <string>

namespace nibble::cli {
namespace {

void print(const quantize::VerifyReport& report) {
  fmt::print("matrices     {} NVFP4, {} FP8, {} BF16; {} tensors are copies of the source's\n",
             report.nvfp4, report.fp8, report.bf16, report.copies);
  if (report.blocks > 0) {
    fmt::print(
        "block scales {:.2f} % as the max rule has them\n",
        100.0 * static_cast<double>(report.max_rule_blocks) / static_cast<double>(report.blocks));
  }
  for (const auto& [name, error] : report.errors) {
    fmt::print(
        "error        {:<28} {:6} matrices  {:.5f} relative, {:.2f} dB; worst {:.4f} at {}\n", name,
        error.matrices, error.relative(), error.sqnr(), error.largest, error.largest_name);
  }
}

Result<bool> verify(const QuantizeOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(const auto original, OpenedCheckpoint::open(options.against));
  NIBBLE_ASSIGN_OR_RETURN(const auto quantized, OpenedCheckpoint::open(options.verify));
  NIBBLE_ASSIGN_OR_RETURN(const ComputeDevice compute,
                          make_compute_device("cpu", options.arithmetic, options.threads));
  Progress bar("verifying");
  NIBBLE_ASSIGN_OR_RETURN(
      const quantize::VerifyReport report,
      quantize::verify(*compute.device, {*original->checkpoint, *original->source},
                       {*quantized->checkpoint, *quantized->source},
                       [&](int64_t done, int64_t total) {
                         bar.update(done, total, fmt::format("expert {} of {}", done, total));
                         return interrupt_signal() == 0;
                       }));
  bar.finish();
  print(report);
  if (report.problems.empty()) {
    fmt::print("verified     every scale and code is what the source asks for\n");
    return true;
  }
  fmt::print("{}\n", report.problems.error(ErrorCode::corrupt, options.verify).message);
  return false;
}

}  // namespace

int run_verify(const QuantizeOptions& options) {
  const Result<bool> done = verify(options);
  if (!done.ok()) return report_error(done.error());
  return done.value() ? kExitOk : exit_code_of(ErrorCode::corrupt);
}

}  // namespace nibble::cli
