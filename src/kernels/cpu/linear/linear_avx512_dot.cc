// Dense linear kernels of the avx512_dot level.
#include "kernels/cpu/linear/linear.h"
#include "kernels/cpu/linear/panel_engine.h"

namespace nibble::cpu::avx512_dot {
namespace {
#include "kernels/cpu/linear/level_math.inl"
#include "kernels/cpu/linear/linear_level.inl"
}  // namespace

const LinearKernels kLinearKernels = {
    .level = "avx512_dot",
    .exact_element_bytes = 2,
    .tile_rows = {{kWideTileRows, kWideTileRows, kNvfp4TileRows},
                  {avx512::kTileRows, avx512::kTileRows, avx512::kTileRows}},
    .pack_rows = pack_rows,
    .linear = linear,
};

}  // namespace nibble::cpu::avx512_dot
