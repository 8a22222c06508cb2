// For tests only: counts calls of operator new on this thread (allocation_count.cc replaces it).
#pragma once

#include <cstdint>

namespace nibble::runtime {

/// Allocations of the calling thread since it started.
int64_t allocations_of_this_thread();

}  // namespace nibble::runtime
