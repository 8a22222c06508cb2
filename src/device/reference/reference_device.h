// ReferenceDevice: the small operations in double, rounded where the product rounds. The oracle of
// selftest and of whole models in tests; no model runs on it otherwise.
//
// Slow, host memory. Buffers between operations are the product's (f32, or BF16 where `exact` says
// so); inside an operation everything is double. Decoding and prefill both use the recurrent delta
// rule, its definition. It cannot sample or quantize.
#pragma once

#include "base/thread_pool.h"
#include "device/device.h"

#include <memory>

namespace nibble::device {

/// The pool is used, one caller at a time, and outlives the device.
std::unique_ptr<Device> make_reference_device(Arithmetic arithmetic, ThreadPool& pool);

}  // namespace nibble::device
