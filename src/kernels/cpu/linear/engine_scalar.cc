// Panel engine without machine flags: the product's path on a processor without AVX2.
#include "kernels/cpu/common/panel_engine.h"

#define NIBBLE_UNROLL _Pragma("GCC unroll 16")

namespace nibble::cpu::scalar {
namespace {
// clang-format off
#include "kernels/cpu/linear/lanes_scalar.inl"
#include "kernels/cpu/linear/f32_engine.inl"
#include "kernels/cpu/linear/pack_tiles.inl"
// clang-format on

using LevelTiles = TileFunctions<1, 2>;
}  // namespace

void accumulate_panels(const PanelJob& job) noexcept {
  accumulate_panels_f32<LevelTiles>(job);
}

void pack_tiles(const PackTilesArgs& args) noexcept {
  pack_tiles_level<false>(args);
}

}  // namespace nibble::cpu::scalar

#undef NIBBLE_UNROLL
