#include "base/mapped_file.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/exit_codes.h"
#include "cli/interrupt.h"

#include <fmt/format.h>
#include <system_error>

#include <cstdio>

namespace nibble::cli {

int report_error(const Error& error) {
  fmt::print(stderr, "nibble: {}\n", error.message);
  return exit_code_of(error.code);
}

int run_version(const VersionOptions&) {
  fmt::print("nibble {}\n", NIBBLE_VERSION);
  return kExitOk;
}

namespace {

int dispatch(const ServeOptions& options) {
  return run_serve(options);
}
int dispatch(const ChatOptions& options) {
  return run_chat(options);
}
int dispatch(const InspectOptions& options) {
  return run_inspect(options);
}
int dispatch(const QuantizeOptions& options) {
  return run_quantize(options);
}
int dispatch(const PerplexityOptions& options) {
  return run_perplexity(options);
}
int dispatch(const KldOptions& options) {
  return run_kld(options);
}
int dispatch(const BenchEngineOptions& options) {
  return run_bench_engine(options);
}
int dispatch(const SelftestOptions& options) {
  return run_selftest(options);
}
int dispatch(const VersionOptions& options) {
  return run_version(options);
}

}  // namespace

int run(int argc, char** argv) {
  const std::variant<Command, ParseExit> parsed = parse_arguments({argv + 1, argv + argc});
  if (const auto* exit = std::get_if<ParseExit>(&parsed)) {
    std::fputs(exit->text.c_str(), exit->code == 0 ? stdout : stderr);
    return exit->code;
  }
  install_interrupt_handlers();
  install_mapped_file_guard(kExitFailure);
  try {
    return std::visit([](const auto& options) { return dispatch(options); },
                      std::get<Command>(parsed));
  } catch (const std::system_error& error) {  // fmt's way to say that output cannot be written
    std::fprintf(stderr, "nibble: %s\n", error.what());
    return kExitFailure;
  }
}

}  // namespace nibble::cli
