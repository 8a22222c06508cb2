// Dense linear kernels of the avx2 level.
#include "kernels/cpu/linear/linear.h"
#include "kernels/cpu/linear/panel_engine.h"

namespace nibble::cpu::avx2 {
namespace {
#include "kernels/cpu/linear/level_math.inl"
#include "kernels/cpu/linear/linear_level.inl"
}  // namespace

const LinearKernels kLinearKernels = {
    .level = "avx2",
    .exact_element_bytes = 4,
    .tile_rows = {{kTileRows, kTileRows, kTileRows}, {kTileRows, kTileRows, kTileRows}},
    .pack_rows = pack_rows,
    .linear = linear,
};

}  // namespace nibble::cpu::avx2
