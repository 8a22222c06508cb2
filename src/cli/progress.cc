#include "cli/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <utility>

namespace nibble::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kBarWidth = 30;
constexpr auto kTerminalInterval = std::chrono::milliseconds(100);
constexpr auto kLineInterval = std::chrono::seconds(10);

}  // namespace

Progress::Progress(std::string what)
    : what_(std::move(what)),
      terminal_(isatty(STDERR_FILENO) == 1),
      started_(Clock::now()),
      last_() {}

Progress::~Progress() {
  finish();
}

void Progress::update(int64_t done, int64_t total, const std::string& detail) {
  const auto now = Clock::now();
  const auto interval =
      terminal_ ? Clock::duration(kTerminalInterval) : Clock::duration(kLineInterval);
  // Short work stays silent off a terminal: the first line comes after one interval.
  if (now - (terminal_ || line_open_ ? last_ : started_) < interval && done != total) return;
  if (!terminal_ && done == total && !line_open_) return;
  last_ = now;
  line_open_ = true;
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1.0;
  const double seconds = std::chrono::duration<double>(now - started_).count();
  if (!terminal_) {
    fmt::print(stderr, "{}: {}/{} ({:.0f} s) {}\n", what_, done, total, seconds, detail);
    return;
  }
  const auto filled = static_cast<size_t>(share * kBarWidth);
  const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
  fmt::print(stderr, "\r\033[K{} [{}] {:3.0f} % {}", what_, bar, 100 * share, detail);
  std::fflush(stderr);
}

void Progress::start(std::string what) {
  finish();
  what_ = std::move(what);
  started_ = Clock::now();
  last_ = {};
  if (!terminal_) fmt::print(stderr, "{}\n", what_);
}

void Progress::finish() {
  if (line_open_ && terminal_) fmt::print(stderr, "\r\033[K");
  line_open_ = false;
}

}  // namespace nibble::cli
