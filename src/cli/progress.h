// Progress of long work: a bar on a terminal, a line now and then otherwise. Written to standard
// error.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace nibble::cli {

class Progress {
 public:
  /// `what` names the work: "loading".
  explicit Progress(std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(int64_t done, int64_t total, const std::string& detail = "");
  /// From now on the work is `what`. Off a terminal that is a line of its own, so that a log shows
  /// how far a run came.
  void start(std::string what);
  /// Ends the line; later updates start a new one.
  void finish();

 private:
  std::string what_;
  bool terminal_;
  bool line_open_ = false;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace nibble::cli
