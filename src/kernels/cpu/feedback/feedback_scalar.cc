// Rounding with error feedback at the scalar level.
#include "kernels/cpu/feedback/feedback.h"

#include <immintrin.h>

namespace nibble::cpu::scalar {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_scalar.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/feedback/feedback.inl"
// clang-format on

}  // namespace

const FeedbackKernels kFeedbackKernels = {add_tile_products, round_block};

}  // namespace nibble::cpu::scalar
