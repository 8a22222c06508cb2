// The conv operations of the avx2 level.
#include "kernels/cpu/conv/short_conv.h"

#include <immintrin.h>

namespace nibble::cpu::avx2 {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx2.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/conv/short_conv.inl"
// clang-format on

}  // namespace

const ConvKernels kConvKernels = {short_conv};

}  // namespace nibble::cpu::avx2
