#include "cli/interrupt.h"

#include "base/check.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

namespace nibble::cli {
namespace {

// A handler may touch nothing but these (async-signal-safety).
volatile sig_atomic_t pending_signal = 0;
int wake_pipe[2] = {-1, -1};

void on_signal(int signal) {
  if (pending_signal != 0) _exit(128 + signal);
  pending_signal = signal;
  const char byte = 1;
  const ssize_t ignored = write(wake_pipe[1], &byte, 1);
  (void)ignored;
}

}  // namespace

void install_interrupt_handlers() {
  NIBBLE_CHECK(pipe(wake_pipe) == 0, "pipe for signals");
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);  // a file size limit is then an error of the write, with its name
}

int interrupt_signal() {
  return pending_signal;
}

void clear_interrupt() {
  pending_signal = 0;
}

void wait_for_interrupt() {
  while (pending_signal == 0) {
    struct pollfd waiting {
      wake_pipe[0], POLLIN, 0
    };
    if (poll(&waiting, 1, -1) < 0 && errno != EINTR) return;
  }
}

}  // namespace nibble::cli
