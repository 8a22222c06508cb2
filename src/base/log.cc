#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <memory>

namespace nibble {
namespace {

spdlog::logger& sink() {
  static const std::shared_ptr<spdlog::logger> logger = [] {
    auto made = spdlog::stderr_color_mt("nibble");
    made->set_pattern("%H:%M:%S %^%l%$ %v");
    return made;
  }();
  return *logger;
}

}  // namespace

void log_info(const std::string& message) {
  sink().info("{}", message);
}

void log_warning(const std::string& message) {
  sink().warn("{}", message);
}

void log_error(const std::string& message) {
  sink().error("{}", message);
}

}  // namespace nibble
