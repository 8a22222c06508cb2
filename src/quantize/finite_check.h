// Search for NaN and infinity in weights: a checkpoint that has any is refused.
#pragma once

#include "base/result.h"
#include "formats/checkpoint.h"
#include "tensor/tensor_view.h"

#include <cstdint>
#include <functional>

namespace nibble::quantize {

/// How many values of a BF16, F16 or F32 tensor are NaN or infinite; 0 for other types.
int64_t count_not_finite(ConstTensorView view);

/// Reads every tensor. All that have such values are listed in one error (corrupt). `progress` gets
/// (bytes read, bytes in all); false stops with ErrorCode::cancelled.
Result<void> check_finite(const formats::Checkpoint& checkpoint,
                          const std::function<bool(int64_t, int64_t)>& progress);

}  // namespace nibble::quantize
