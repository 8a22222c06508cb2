// Grouped expert kernels of the avx512_dot level.
#include "kernels/cpu/common/element.h"
#include "kernels/cpu/common/panel_engine.h"
#include "kernels/cpu/moe/moe.h"

#include <immintrin.h>

namespace nibble::cpu::avx512_dot {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_avx512.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/math.inl"
#include "kernels/cpu/common/panel_job.inl"
#include "kernels/cpu/moe/moe_level.inl"
// clang-format on

}  // namespace

const MoeKernels kMoeKernels = {
    .gate_up = gate_up,
    .pack_slots = pack_slots,
    .down_combine = down_combine,
};

}  // namespace nibble::cpu::avx512_dot
