// Panel engine of the avx512_dot level: BF16 pair products for exact arithmetic; f32 arithmetic is
// avx512's.
#include "kernels/cpu/common/panel_engine.h"

#include <immintrin.h>

#define NIBBLE_UNROLL _Pragma("GCC unroll 16")

namespace nibble::cpu::avx512_dot {
namespace {
// clang-format off
#include "kernels/cpu/linear/dot_engine.inl"
#include "kernels/cpu/linear/pack_tiles.inl"
// clang-format on
}  // namespace

void accumulate_panels(const PanelJob& job) noexcept {
  if (job.arithmetic == LinearArithmetic::f32) return avx512::accumulate_panels(job);
  switch (job.format) {
    case PanelFormat::bf16:
      return accumulate_wide<PanelFormat::bf16>(job);
    case PanelFormat::fp8:
      return accumulate_wide<PanelFormat::fp8>(job);
    case PanelFormat::nvfp4:
      return accumulate_nvfp4(job);
  }
}

void pack_tiles(const PackTilesArgs& args) noexcept {
  pack_tiles_level<true>(args);
}

}  // namespace nibble::cpu::avx512_dot

#undef NIBBLE_UNROLL
