// Large steps of the 35B-A3B shapes: the expert layer as grouped tensor-core products, and
// attention on tensor cores.
//
// Nine pairs a row (eight chosen experts, then the shared one as expert 256): pair = row * 9 +
// slot. The pairs are sorted by expert on the device and cut into tiles of up to 128 columns;
// activations of a product hold k permuted inside every block of 64, so that the decode layout of
// the weights serves.
#pragma once

#include "kernels/cuda/decode.h"

namespace nibble::cuda {

/// Pairs first .. first + count of the sorted list against weight rows row_tile * 256 .. + 255.
struct Tile {
  int32_t expert, first, count, row_tile, columns;
};

struct PrefillTable {
  int32_t* experts;  // [pairs]
  float* weights;  // [pairs]
  int32_t* pairs;  // sorted by expert
  int32_t* position;  // [pairs] place of a pair in `pairs`
  int32_t* first;  // [257] begin of each expert's pairs
  int32_t* count;  // [257] pairs of each expert
  int32_t* counts;  // tiles: gate_up wide, narrow; down wide, narrow
  Tile* tiles;  // the four lists, tile_capacity each
  int32_t tile_capacity;
};
int32_t prefill_tile_capacity(int64_t max_pairs);

/// x = bf16(rms_norm(h)) in plain and in permuted order, and the shared expert's gate logit.
struct PrefillNormArgs {
  const float* h;
  const float* weight;
  const void* gate_weight;  // bf16 [2048]
  void* x;
  void* permuted;
  float* logits;  // [rows][kLogitStride]; column 256 is written
  int64_t rows;
  float eps;
};
void prefill_norm(const PrefillNormArgs& args, Stream stream);

/// Routing of all rows and the tiles.
struct PrefillRouteArgs {
  const float* logits;
  int64_t rows;
  PrefillTable table;
  int32_t* experts_out;  // [rows][8], or null
};
void prefill_route(const PrefillRouteArgs& args, Stream stream);

struct GroupedArgs {
  Bank bank, shared;
  PrefillTable table;
  const void* x;  // gate_up: permuted rows; down: the output of gate_up
  void*
      out;  // gate_up: [pairs][512] permuted, sorted order; down: bf16 [pairs][2048], sorted order
};
void prefill_gate_up(const GroupedArgs& args, Stream stream);
void prefill_down(const GroupedArgs& args, Stream stream);

/// h[row] += sum over the nine pairs in slot order of weight * y.
void prefill_combine(const void* y, const PrefillTable& table, float* h, int64_t rows,
                     Stream stream);

/// Causal attention of any rows, heads of 256, eight queries per KV head, BF16 or FP8 pages.
bool can_prefill_attention(const AttentionArgs& args);
void prefill_attention(const AttentionArgs& args, Stream stream);

void prepare_prefill();

}  // namespace nibble::cuda
