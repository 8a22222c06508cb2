// Prints to standard output, line by line, so that a killed run still shows how far it came.
#include "tests/golden/report.h"

#include <fmt/core.h>

#include <cmath>
#include <cstdio>

namespace nibble::golden {
namespace {

// One group must not bury the others: its failures beyond this many are only counted.
constexpr int kFailuresShownPerGroup = 20;

void print_line(const std::string& line) {
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

}  // namespace

Report::Group& Report::note(const std::string& name, double deviation, const std::string& detail) {
  const size_t slash = name.rfind('/');
  Group& group = groups_[name.substr(0, slash)];
  // NaN is worse than any number.
  const bool is_larger = std::isnan(deviation) || deviation > group.largest_deviation;
  if (is_larger && !std::isnan(group.largest_deviation)) {
    group.largest_deviation = deviation;
    group.largest_case = slash == std::string::npos ? name : name.substr(slash + 1);
    group.detail = detail;
  }
  return group;
}

void Report::pass(const std::string& name, double deviation, const std::string& detail) {
  ++note(name, deviation, detail).passed;
  ++passed_;
}

void Report::fail(const std::string& name, const std::string& detail, double deviation) {
  Group& group = note(name, deviation, detail);
  ++group.failed;
  ++failed_;
  if (group.failed <= kFailuresShownPerGroup) print_line(fmt::format("FAIL {}: {}", name, detail));
}

void Report::skip(const std::string& name, const std::string& reason) {
  ++skipped_;
  print_line(fmt::format("SKIP {}: {}", name, reason));
}

void Report::print_groups() {
  for (const auto& [name, group] : groups_) {
    std::string line = fmt::format("{} {}: {} of {}", group.failed == 0 ? "ok  " : "BAD ", name,
                                   group.passed, group.passed + group.failed);
    if (group.largest_case.empty()) {
      line += group.failed == 0 ? ", all equal" : "";
    } else {
      line += fmt::format(", largest deviation {:.3g} at {} ({})", group.largest_deviation,
                          group.largest_case, group.detail);
    }
    print_line(line);
  }
  groups_.clear();
}

void Report::print_summary() const {
  print_line(fmt::format("{} passed, {} failed, {} skipped", passed_, failed_, skipped_));
}

}  // namespace nibble::golden
