// Logging: one process-wide sink (spdlog), configured by the front end. Library code logs, never
// prints.
//
// Safe from any thread. The sink is the program's only mutable namespace-scope state.
#pragma once

#include <string>

namespace nibble {

enum class LogLevel { debug, info, warning, error };
enum class LogFormat { text, json };

/// Sets level and line format of the sink (standard error). Call once, from the front end.
void configure_log(LogLevel level, LogFormat format);

void log(LogLevel level, const std::string& message);
inline void log_info(const std::string& message) {
  log(LogLevel::info, message);
}
inline void log_warning(const std::string& message) {
  log(LogLevel::warning, message);
}
inline void log_error(const std::string& message) {
  log(LogLevel::error, message);
}

}  // namespace nibble
