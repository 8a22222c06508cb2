// Numbers with units as people write and read them: "40GiB", "32k", 1.5 GiB.
#pragma once

#include "base/result.h"

#include <cstdint>
#include <string>

namespace nibble {

/// "40GiB", "512MiB", "1.5g", "100000000": bytes. KiB/MiB/GiB/TiB and k/m/g/t are powers of 1024,
/// KB/MB/GB/TB of 1000.
Result<int64_t> parse_bytes(const std::string& text);

/// "32k" = 32768, "1.5m", "4096": a count, powers of 1024.
Result<int64_t> parse_count(const std::string& text);

/// "1.50 GiB", "23.4 MiB", "512 B".
std::string format_bytes(int64_t bytes);

}  // namespace nibble
