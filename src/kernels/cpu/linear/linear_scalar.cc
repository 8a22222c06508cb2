// Dense linear kernels of the scalar level.
#include "kernels/cpu/common/panel_engine.h"
#include "kernels/cpu/linear/linear.h"

#include <immintrin.h>

namespace nibble::cpu::scalar {
namespace {

// Each builds on the one before.
// clang-format off
#include "kernels/cpu/common/vec_scalar.inl"
#include "kernels/cpu/common/vec.inl"
#include "kernels/cpu/common/panel_job.inl"
#include "kernels/cpu/linear/linear_level.inl"
// clang-format on

}  // namespace

const LinearKernels kLinearKernels = {
    .level = "scalar",
    .exact_element_bytes = kExactElementBytes,
    .tile_rows = {{kTileRowsOf[0][0], kTileRowsOf[0][1], kTileRowsOf[0][2]},
                  {kTileRowsOf[1][0], kTileRowsOf[1][1], kTileRowsOf[1][2]}},
    .pack_rows = pack_rows,
    .linear = linear,
};

}  // namespace nibble::cpu::scalar
