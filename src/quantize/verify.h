// Verify: a quantized checkpoint re-read and checked, scale by scale and code by code, against the
// BF16 checkpoint it was made from.
//
// Trusts nothing but the tensors: not the configuration, not a report. Whoever wrote the file,
// codes must be the nearest ones for the stored scales (unless the caller knows of error feedback),
// fused matrices must share their scales, and copies must be copies.
#pragma once

#include "base/problems.h"
#include "device/device.h"
#include "formats/checkpoint.h"
#include "model/checkpoint_source.h"
#include "quantize/error_log.h"

#include <cstdint>
#include <functional>
#include <map>
#include <string>

namespace nibble::quantize {

struct VerifyReport {
  int64_t nvfp4 = 0, fp8 = 0, bf16 = 0;  // linear matrices by stored format
  int64_t copies = 0;  // tensors equal to the source's
  int64_t blocks = 0, max_rule_blocks = 0;  // NVFP4 blocks, and those with the max rule's scale
  int64_t moved_bytes = 0;  // CodeRule::feedback: codes that are not the nearest
  std::map<std::string, GroupError> errors;
  Problems problems;  // empty: the file is right
};

/// What NVFP4 codes must be, given their scales: the nearest ones; or, where they were rounded with
/// error feedback (GPTQ), near ones, the matrix as a whole being judged by its error.
enum class CodeRule { nearest, feedback };

/// Called with (matrices done, matrices in all); false stops with ErrorCode::cancelled.
using VerifyProgress = std::function<bool(int64_t done, int64_t total)>;

/// A checkpoint with its view as a model.
struct OpenedModel {
  const formats::Checkpoint& checkpoint;
  model::CheckpointSource& source;
};

/// What is wrong with the file is in `problems`; errors are for what stops the check: models of
/// different geometry (invalid_argument), interruption.
Result<VerifyReport> verify(device::Device& device, const OpenedModel& original,
                            const OpenedModel& quantized, CodeRule codes,
                            const VerifyProgress& progress);

}  // namespace nibble::quantize
