// The norm operations of the avx512 level.
#include "kernels/cpu/norm/norm.h"

#include <immintrin.h>

namespace nibble::cpu::avx512 {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx512.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/norm/norm.inl"
// clang-format on

}  // namespace

const NormKernels kNormKernels = {rms_norm, gated_rms_norm};

}  // namespace nibble::cpu::avx512
