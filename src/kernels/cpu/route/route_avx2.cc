// The route operations of the avx2 level.
#include "kernels/cpu/common/element.h"
#include "kernels/cpu/route/route.h"

#include <immintrin.h>

namespace nibble::cpu::avx2 {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx2.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/route/route.inl"
// clang-format on

}  // namespace

const RouteKernels kRouteKernels = {moe_route};

}  // namespace nibble::cpu::avx2
