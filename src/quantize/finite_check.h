// Search for NaN and infinity in weights: a checkpoint that has any is refused.
#pragma once

#include "tensor/tensor_view.h"

#include <cstdint>

namespace nibble::quantize {

/// How many values of a BF16, F16 or F32 tensor are NaN or infinite; 0 for other types.
int64_t count_not_finite(ConstTensorView view);

}  // namespace nibble::quantize
