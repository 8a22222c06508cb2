// The text_X families: the text model against the reference implementation's traces.
//
// f32: every tensor within e <= 5e-5, in one step, in chunks and token by token. exact: routing
// forced, per-layer and logits L2 against the family's own BF16 figures, and against the double
// reference with the same rounding points.
#pragma once

#include "tests/golden/report.h"
#include "tests/support/model_harness.h"

#include <functional>
#include <string>

namespace nibble::golden {

/// Makes the device under test for an arithmetic.
using DeviceOf = std::function<test::ModelHarness::DeviceFactory(device::Arithmetic)>;
/// The CPU at the level of NIBBLE_FORCE_ISA, or the best.
DeviceOf cpu_device_of();

/// `folder`: a text_X folder; `model`: its checkpoint; `name` begins the case names.
void run_text_family(const std::string& folder, const std::string& model, const std::string& name,
                     Report& report, const DeviceOf& device = cpu_device_of());

}  // namespace nibble::golden
