// LineEditor: lines from a terminal with editing and history (libedit), or plain lines from a pipe.
#pragma once

#include <optional>
#include <string>

namespace nibble::cli {

class LineEditor {
 public:
  LineEditor();

  bool is_interactive() const { return interactive_; }
  /// The next line without its end, or nothing at the end of input. Ctrl-C drops the line being
  /// typed.
  std::optional<std::string> read_line(const char* prompt);

 private:
  bool interactive_;
};

}  // namespace nibble::cli
