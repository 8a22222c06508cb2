// Grouped expert kernels of the avx512 level.
#include "kernels/cpu/linear/panel_engine.h"
#include "kernels/cpu/moe/moe.h"

namespace nibble::cpu::avx512 {
namespace {
#include "kernels/cpu/linear/level_math.inl"
#include "kernels/cpu/moe/moe_level.inl"
}  // namespace

const MoeKernels kMoeKernels = {
    .gate_up = gate_up,
    .pack_slots = pack_slots,
    .down_combine = down_combine,
};

}  // namespace nibble::cpu::avx512
