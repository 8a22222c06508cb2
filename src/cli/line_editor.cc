#include "cli/line_editor.h"

#include "cli/interrupt.h"

#include <editline/readline.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>

namespace nibble::cli {

LineEditor::LineEditor() : interactive_(isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1) {
  if (interactive_) using_history();
}

std::optional<std::string> LineEditor::read_line(const char* prompt) {
  if (!interactive_) {
    std::string line;
    if (!std::getline(std::cin, line)) return std::nullopt;
    return line;
  }
  while (true) {
    char* text = readline(prompt);
    if (text == nullptr) {
      if (interrupt_signal() == 0) return std::nullopt;
      clear_interrupt();
      std::fputc('\n', stdout);
      continue;
    }
    const std::string line(text);
    std::free(text);
    if (interrupt_signal() != 0) {
      clear_interrupt();
      continue;
    }
    if (!line.empty()) add_history(line.c_str());
    return line;
  }
}

}  // namespace nibble::cli
