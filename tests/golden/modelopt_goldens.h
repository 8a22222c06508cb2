// The modelopt family: what NVIDIA ModelOpt itself wrote, byte for byte.
//
// CASE/{cpu,cuda}: the source checkpoint quantized with the case's maxima, every tensor and both
// configurations compared, and our own calibration against its F32 table. tensors/: single tensors
// through the encoder.
#pragma once

#include "tests/golden/report.h"

#include <string>

namespace nibble::golden {

/// `folder`: a modelopt folder with source/; `name`: begins every case name.
void run_modelopt_family(const std::string& folder, const std::string& name, Report& report);

/// Its tensors/ folder: NAME.json beside NAME.safetensors, or beside NAME.diff.safetensors on top
/// of the one file that is no difference.
void run_modelopt_tensors(const std::string& folder, const std::string& name, Report& report);

}  // namespace nibble::golden
