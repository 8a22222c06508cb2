// cuda_check: the parts of the program. Each prints its lines into the report.
#pragma once

#include "base/thread_pool.h"
#include "device/device.h"
#include "tests/golden/report.h"

#include <memory>
#include <string>

namespace nibble::check {

/// The GPU under test and the CPU as oracle, both at one arithmetic.
std::unique_ptr<device::Device> open_gpu(device::Arithmetic arithmetic);
std::unique_ptr<device::Device> open_cpu(device::Arithmetic arithmetic, ThreadPool& pool);

/// `model`: a checkpoint; `text`: plain text, teacher-forced. CPU exact against GPU; kld_limit:
/// what the mean KL divergence may be.
void check_text(const std::string& model, const std::string& text, double kld_limit,
                const std::string& name, golden::Report& report);
/// Dummy weights of a configuration: logits of CPU exact against GPU, prefill and decode.
void check_dummy(const std::string& config, golden::Report& report);

/// Writes a checkpoint with the dummy weights of a configuration.
void write_checkpoint(const std::string& config, const std::string& folder);

}  // namespace nibble::check
