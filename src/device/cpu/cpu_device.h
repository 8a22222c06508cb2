// The CPU device: small operations on a thread pool with the kernels of one ISA level; host memory
// is device memory.
//
// Operations run at once, so synchronize() has nothing to do. Results do not depend on the number
// of threads.
#pragma once

#include "base/cpu_features.h"
#include "base/thread_pool.h"
#include "device/device.h"

#include <memory>

namespace nibble::device {

/// `pool` is used by every operation and outlives the device.
std::unique_ptr<Device> make_cpu_device(Arithmetic arithmetic, IsaLevel level, ThreadPool& pool);

}  // namespace nibble::device
