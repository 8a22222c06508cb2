// Panel engine of the avx512 level: f32 lanes with fused multiply-add.
#include "kernels/cpu/common/panel_engine.h"

#include <immintrin.h>

#define NIBBLE_UNROLL _Pragma("GCC unroll 16")

namespace nibble::cpu::avx512 {
namespace {
// clang-format off
#include "kernels/cpu/linear/lanes_avx512.inl"
#include "kernels/cpu/linear/f32_engine.inl"
#include "kernels/cpu/linear/pack_tiles.inl"
// clang-format on

using LevelTiles = TileFunctions<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16>;
}  // namespace

void accumulate_panels(const PanelJob& job) noexcept {
  accumulate_panels_f32<LevelTiles>(job);
}

void pack_tiles(const PackTilesArgs& args) noexcept {
  pack_tiles_level<false>(args);
}

}  // namespace nibble::cpu::avx512

#undef NIBBLE_UNROLL
