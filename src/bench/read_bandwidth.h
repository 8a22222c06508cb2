// Read bandwidth of this machine's memory, measured in the same process as what is compared with
// it.
#pragma once

#include "base/thread_pool.h"

namespace nibble::bench {

/// Best of a few passes over a buffer far larger than the caches, all threads of the pool reading,
/// in GB/s.
double measure_read_bandwidth(ThreadPool& pool);

}  // namespace nibble::bench
