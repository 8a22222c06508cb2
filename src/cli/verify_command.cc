// nibble quantize --verify DST --against SRC: every scale and code of a quantized checkpoint
// checked against its source.
#include "base/file.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"
#include "cli/model_session.h"
#include "cli/opened_checkpoint.h"
#include "cli/progress.h"
#include "quantize/verify.h"

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <string>

namespace nibble::cli {
namespace {

// The file's own word on how it was made: error feedback cannot be told from damage without it.
Result<quantize::CodeRule> code_rule(const std::string& folder) {
  const std::string path = folder + "/quality_report.json";
  if (!file_exists(path)) return quantize::CodeRule::nearest;
  NIBBLE_ASSIGN_OR_RETURN(const std::string text, read_file(path));
  NIBBLE_ASSIGN_OR_RETURN(const Json report, parse_json(text, path));
  const Result<std::string> method = json_string_or(report, "block_scales", "", path);
  if (!method.ok()) return method.error();
  return method.value() == "gptq" ? quantize::CodeRule::feedback : quantize::CodeRule::nearest;
}

void print(const quantize::VerifyReport& report) {
  fmt::print("matrices     {} NVFP4, {} FP8, {} BF16; {} tensors are copies of the source's\n",
             report.nvfp4, report.fp8, report.bf16, report.copies);
  if (report.blocks > 0) {
    fmt::print(
        "block scales {:.2f} % as the max rule has them\n",
        100.0 * static_cast<double>(report.max_rule_blocks) / static_cast<double>(report.blocks));
  }
  if (report.moved_bytes > 0) {
    fmt::print(
        "codes        {} bytes are not the nearest: quality_report.json says gptq, so single codes "
        "are checked roughly, matrices by their error\n",
        report.moved_bytes);
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
                          make_compute_device({"cpu", options.arithmetic, options.threads}));
  NIBBLE_ASSIGN_OR_RETURN(const quantize::CodeRule codes, code_rule(options.verify));
  Progress bar("verifying");
  NIBBLE_ASSIGN_OR_RETURN(
      const quantize::VerifyReport report,
      quantize::verify(*compute.device, {*original->checkpoint, *original->source},
                       {*quantized->checkpoint, *quantized->source}, codes,
                       [&](int64_t done, int64_t total) {
                         bar.update(done, total, fmt::format("expert {} of {}", done, total));
                         return interrupt_signal() == 0;
                       }));
  bar.finish();
  print(report);
  if (report.problems.empty()) {
    fmt::print("verified     {}\n", codes == quantize::CodeRule::nearest
                                        ? "every scale and code is what the source asks for"
                                        : "scales and codes fit the source");
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
