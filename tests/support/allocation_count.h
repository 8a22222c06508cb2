// For tests only: counts calls of operator new on this thread (allocation_count.cc replaces it).
#pragma once

#include <cstdint>

namespace nibble::runtime {

/// False in builds with a sanitizer, which has its own operator new: nothing is counted there.
bool counts_allocations();

/// Allocations of the calling thread since it started.
int64_t allocations_of_this_thread();

}  // namespace nibble::runtime
