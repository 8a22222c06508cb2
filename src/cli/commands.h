// The subcommands: each takes its options and returns the process's exit code. One file per
// command.
//
// Commands print to standard output (results) and standard error (progress, errors).
#pragma once

#include "base/result.h"
#include "cli/options.h"

#include <string>

namespace nibble::cli {

int run_serve(const ServeOptions& options);
int run_chat(const ChatOptions& options);
int run_inspect(const InspectOptions& options);
int run_quantize(const QuantizeOptions& options);
int run_verify(const QuantizeOptions& options);
int run_perplexity(const PerplexityOptions& options);
int run_kld(const KldOptions& options);
int run_bench_engine(const BenchEngineOptions& options);
int run_selftest(const SelftestOptions& options);
int run_version(const VersionOptions& options);

/// Prints "nibble: message" to standard error and returns the error's exit code.
int report_error(const Error& error);

/// Parses `arguments` (argv without the program) and runs the command.
int run(int argc, char** argv);

}  // namespace nibble::cli
