// The elementwise operations of the avx512 level.
#include "kernels/cpu/elementwise/elementwise.h"

#include <immintrin.h>

namespace nibble::cpu::avx512 {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx512.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/elementwise/elementwise.inl"
// clang-format on

}  // namespace

const ElementwiseKernels kElementwiseKernels = {sigmoid_gate, add, moe_add_shared, gather_rows};

}  // namespace nibble::cpu::avx512
