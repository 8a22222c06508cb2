// golden_runner [--tokenizer FILE] [--only FAMILY] DIR...
//
// Runs every golden family found in the folders given (each may be a family folder itself) and ends
// with "N passed, N failed, N skipped". Exit status 0 exactly when nothing failed, 2 for a wrong
// call. What it does not know or cannot yet run is skipped by name, never passed.
#include "base/file.h"
#include "tests/golden/families.h"
#include "tests/golden/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace nibble::golden {
namespace {

struct Options {
  std::string tokenizer_file;
  std::string only;
  std::vector<std::string> folders;
};

std::optional<Options> parse_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument == "--tokenizer" || argument == "--only") {
      if (i + 1 == argc) return std::nullopt;
      (argument == "--only" ? options.only : options.tokenizer_file) = argv[++i];
    } else if (argument.starts_with("-")) {
      return std::nullopt;
    } else {
      options.folders.push_back(argument);
    }
  }
  if (options.folders.empty()) return std::nullopt;
  return options;
}

std::string last_part(const std::string& folder) {
  const auto path = std::filesystem::absolute(folder).lexically_normal();
  return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

bool is_wanted(const Family& family, const std::string& name, const Options& options) {
  return options.only.empty() || options.only == family.kind || options.only == name;
}

void run_family(const Family& family, const std::string& folder, const Options& options,
                Report& report) {
  const std::string name = last_part(folder);
  if (!is_wanted(family, name, options)) return;
  if (family.run == nullptr) {
    report.skip(name, fmt::format("nibble does not have {} yet; no case of this folder was run",
                                  family.lacking));
    return;
  }
  const auto path = std::filesystem::absolute(folder).lexically_normal();
  FamilyRun run;
  run.folder = path.has_filename() ? path.string() : path.parent_path().string();
  run.name = name;
  run.variant = family.is_prefix ? name.substr(family.name.size()) : "";
  run.parent = std::filesystem::path(run.folder).parent_path().string();
  run.tokenizer_file = options.tokenizer_file;
  family.run(run, report);
  report.print_groups();
}

// A folder of families. models/ holds what families need and is none itself.
void run_folder(const std::string& folder, const Options& options, Report& report) {
  if (const Family* family = find_family(last_part(folder))) {
    run_family(*family, folder, options, report);
    return;
  }
  const auto names = list_directory(folder);
  if (!names.ok()) {
    report.fail(folder, names.error().message);
    return;
  }
  for (const std::string& name : names.value()) {
    const std::string path = folder + "/" + name;
    if (!directory_exists(path) || name == "models" || name.starts_with(".")) continue;
    const Family* family = find_family(name);
    if (family != nullptr) {
      run_family(*family, path, options, report);
    } else if (options.only.empty()) {
      report.skip(name, "no family of this name is known");
    }
  }
}

}  // namespace
}  // namespace nibble::golden

int main(int argc, char** argv) {
  const auto options = nibble::golden::parse_options(argc, argv);
  if (!options) {
    std::fputs("usage: golden_runner [--tokenizer FILE] [--only FAMILY] DIR...\n", stderr);
    return 2;
  }
  nibble::golden::Report report;
  for (const std::string& folder : options->folders) {
    nibble::golden::run_folder(folder, *options, report);
  }
  report.print_groups();
  report.print_summary();
  return report.failed() == 0 ? 0 : 1;
}
