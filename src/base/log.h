// Logging: one line per message on standard error (spdlog), from any thread. Library code logs,
// never prints.
#pragma once

#include <string>

namespace nibble {

void log_info(const std::string& message);
void log_warning(const std::string& message);
void log_error(const std::string& message);

}  // namespace nibble
