// The rope operations of the scalar level.
#include "kernels/cpu/common/element.h"
#include "kernels/cpu/rope/rope.h"

#include <immintrin.h>

namespace nibble::cpu::scalar {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_scalar.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/rope/rope.inl"
// clang-format on

}  // namespace

const RopeKernels kRopeKernels = {qk_norm_rope};

}  // namespace nibble::cpu::scalar
