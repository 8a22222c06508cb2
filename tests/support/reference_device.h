// ReferenceDevice: the small operations in double, rounded where the product rounds. The oracle of
// whole models.
//
// Slow, one thread, host memory. Buffers between operations are the product's (f32, or BF16 where
// `exact` says so); inside an operation everything is double. Decoding and prefill both use the
// recurrent delta rule, its definition.
#pragma once

#include "base/thread_pool.h"
#include "device/device.h"
#include "formats/hf_config.h"

#include <memory>
#include <vector>

namespace nibble::test {

/// Arithmetic::exact in double. The pool is not used.
std::unique_ptr<device::Device> make_reference_device(ThreadPool& pool);

/// Rows of the rotary table as the goldens hold it: [rows][rotary_dim], the second half repeats the
/// first, for text positions, from the product's own table function.
std::vector<float> rope_table_rows(const formats::ModelConfig& config,
                                   const std::vector<int32_t>& rows, bool cosines);

}  // namespace nibble::test
