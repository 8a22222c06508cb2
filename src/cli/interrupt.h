// Ctrl-C and SIGTERM as a flag that long work polls; a second signal ends the program at once.
#pragma once

namespace nibble::cli {

/// Installs the handlers. Call once, from main's thread.
void install_interrupt_handlers();

/// The signal that came (SIGINT, SIGTERM), or 0.
int interrupt_signal();

/// Forgets a signal: `chat` stops an answer and goes on.
void clear_interrupt();

/// Blocks until a signal came.
void wait_for_interrupt();

}  // namespace nibble::cli
