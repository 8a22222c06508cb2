// The delta operations of the avx512 level.
#include "kernels/cpu/delta/delta.h"

#include <immintrin.h>

namespace nibble::cpu::avx512 {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx512.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/common/tile_gemm.inl"
#include "kernels/cpu/delta/delta_recurrent.inl"
#include "kernels/cpu/delta/delta_chunked.inl"
// clang-format on

}  // namespace

const DeltaKernels kDeltaKernels = {delta_gates, gated_delta_recurrent, gated_delta_chunked};

}  // namespace nibble::cpu::avx512
