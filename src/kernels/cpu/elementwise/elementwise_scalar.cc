// The elementwise operations of the scalar level.
#include "kernels/cpu/elementwise/elementwise.h"

#include <immintrin.h>

namespace nibble::cpu::scalar {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_scalar.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/elementwise/elementwise.inl"
// clang-format on

}  // namespace

const ElementwiseKernels kElementwiseKernels = {sigmoid_gate, add, moe_add_shared, gather_rows};

}  // namespace nibble::cpu::scalar
