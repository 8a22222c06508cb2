// How much memory this process may still take: the kernel's estimate and the limits of its control
// groups.
#pragma once

#include "base/result.h"

#include <cstddef>
#include <string>

namespace nibble::runtime {

/// Where the kernel's files are; tests point elsewhere.
struct HostMemoryPaths {
  std::string proc = "/proc";
  std::string cgroup = "/sys/fs/cgroup";
};

/// The smallest of MemAvailable and what is left below every memory limit of this process's control
/// group and its parents (version 2, or version 1 without parents); page cache that can be dropped
/// counts as free. Errors: no readable MemAvailable.
Result<size_t> available_memory_bytes(const HostMemoryPaths& paths = {});

/// What nibble takes of it unless --memory is given: all but a tenth, and all but 256 MiB.
size_t default_memory_ceiling(size_t available_bytes);

}  // namespace nibble::runtime
