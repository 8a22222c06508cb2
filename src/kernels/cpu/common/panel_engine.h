// The inner engine that dense linear layers and expert products share, one per ISA level.
//
// accumulate_panels computes plain accumulators for some panels and some rows; what happens to them
// (scale, add, SwiGLU, expert sum) is the caller's. pack_tiles writes rows in the order the engine
// reads them: tiles of tile_rows rows (the last one smaller), each [K/16][rows of the tile][16]
// elements.
#pragma once

#include "kernels/cpu/common/panels.h"

#include <cstdint>

namespace nibble::cpu {

/// Largest number of rows of one PanelJob: callers keep that many accumulators on the stack.
constexpr int64_t kMaxJobRows = 192;

struct PackTilesArgs {
  const void* x;  // bf16 (exact) or f32, rows x_stride elements apart
  int64_t x_stride;
  const int32_t* indices;  // row i of the result is row indices[i] / index_divisor; null: row i
  int64_t index_divisor;
  int64_t rows;
  int64_t k;
  int64_t tile_rows;
  LinearArithmetic arithmetic;
  void* out;
};

struct PanelJob {
  const unsigned char* weights;  // first of num_panels contiguous panels
  int64_t num_panels;
  int64_t panel_bytes;
  int64_t blocks;  // ceil(K / 16)
  PanelFormat format;
  LinearArithmetic arithmetic;
  float decode_scales[2];  // f32 arithmetic: tensor scale of even and of odd panels of this job
  const void* x;  // packed tiles
  int64_t rows;  // at most kMaxJobRows
  float*
      acc;  // [panel][row][16], 64-byte aligned, overwritten; panels acc_panel_stride floats apart
  int64_t acc_panel_stride;
};

// Each level: kTileRowsOf [arithmetic][format] is the rows of a tile, kExactElementBytes the
// element of packed x in exact arithmetic (2: BF16, 4: f32; f32 arithmetic always has 4).
namespace scalar {
constexpr int32_t kExactElementBytes = 4;
constexpr int32_t kTileRows = 2;
constexpr int32_t kTileRowsOf[2][kPanelFormats] = {{kTileRows, kTileRows, kTileRows},
                                                   {kTileRows, kTileRows, kTileRows}};
void accumulate_panels(const PanelJob& job) noexcept;
void pack_tiles(const PackTilesArgs& args) noexcept;
}  // namespace scalar
namespace avx2 {
constexpr int32_t kExactElementBytes = 4;
constexpr int32_t kTileRows = 6;  // 12 accumulators of 16 registers
constexpr int32_t kTileRowsOf[2][kPanelFormats] = {{kTileRows, kTileRows, kTileRows},
                                                   {kTileRows, kTileRows, kTileRows}};
void accumulate_panels(const PanelJob& job) noexcept;
void pack_tiles(const PackTilesArgs& args) noexcept;
}  // namespace avx2
namespace avx512 {
constexpr int32_t kExactElementBytes = 4;
constexpr int32_t kTileRows = 16;
constexpr int32_t kTileRowsOf[2][kPanelFormats] = {{kTileRows, kTileRows, kTileRows},
                                                   {kTileRows, kTileRows, kTileRows}};
void accumulate_panels(const PanelJob& job) noexcept;
void pack_tiles(const PackTilesArgs& args) noexcept;
}  // namespace avx512
namespace avx512_dot {
constexpr int32_t kExactElementBytes = 2;
constexpr int32_t kWideTileRows = 12;  // BF16, FP8: 2 panels * 12 rows = 24 accumulators
constexpr int32_t kNvfp4TileRows = 16;  // 16 accumulators, 8 weights, block sums in flight
constexpr int32_t kTileRowsOf[2][kPanelFormats] = {
    {kWideTileRows, kWideTileRows, kNvfp4TileRows},
    {avx512::kTileRows, avx512::kTileRows, avx512::kTileRows}};
void accumulate_panels(const PanelJob& job) noexcept;
void pack_tiles(const PackTilesArgs& args) noexcept;
}  // namespace avx512_dot

}  // namespace nibble::cpu
