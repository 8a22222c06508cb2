// Expert products on CUDA: routing, the table of who uses which expert, gate_up and down.
//
// A pair is (row, slot) = row * slots_per_row + slot. The table sorts a step's pairs by expert on
// the device, so no host waits and a captured graph replays with other routings.
#pragma once

#include "kernels/cuda/args.h"

namespace nibble::cuda {

/// experts [rows][chosen] by falling logit (ties: lowest index), weights: softmax over the chosen.
struct RouteArgs {
  const float* logits;  // row stride logit_stride
  int64_t logit_stride;
  const int32_t* forced;  // device [rows][chosen], or null
  int32_t* experts;
  float* weights;
  int64_t rows;
  int32_t num_experts, chosen;
};
void moe_route(const RouteArgs& args, Stream stream);

/// Buffers of one step's routing; sizes for the largest step.
struct RoutingTable {
  int32_t* first;  // [experts + 1] begin of each expert's pairs in `pairs`
  int32_t* pairs;  // [rows * slots] sorted by expert
  int32_t* active;  // [experts] experts with pairs
  int32_t* counts;  // [0] active experts
};

struct TableArgs {
  const int32_t* experts;  // null: every row uses expert 0 (the shared expert), slots 1
  int64_t rows;
  int32_t slots, num_experts;
  RoutingTable table;
};
void moe_table(const TableArgs& args, Stream stream);

/// One bank of experts.
struct Bank {
  Format format;
  const uint8_t* data;
  int64_t stride;  // bytes from expert to expert
  const float* scales;  // gate_up: [experts][2]; down: [experts]
  int32_t num_experts;
  int64_t n, k;  // gate_up: n = 2 * intermediate
};

struct MoeArgs {
  Bank bank;
  const int32_t* experts;  // [pairs], or null: expert 0
  RoutingTable table;
  const void* x;  // gate_up: [rows][k]; down: [pairs][k]
  Element x_type;
  void* out;  // gate_up: [pairs][n / 2], x_type; down: [pairs][n], out_type
  Element out_type;
  int64_t rows;
  int32_t slots;
  bool rounds_weights = false;  // generic kernels: NVFP4 weights as fp8_nvfp4_rows() makes them
};

/// act = silu(gate) * up. generic: any shape; units: BF16 rows and NVFP4 units, few rows per
/// expert.
void moe_gate_up_generic(const MoeArgs& args, Stream stream);
bool can_moe_gate_up_units(const MoeArgs& args);
void moe_gate_up_units(const MoeArgs& args, Stream stream);

/// out[pair] = down(act[pair]), without the pair's weight.
void moe_down_generic(const MoeArgs& args, Stream stream);
bool can_moe_down_units(const MoeArgs& args);
void moe_down_units(const MoeArgs& args, Stream stream);

/// out[row] = sum over slots in order of weight * y[pair]; weights null: 1.
struct CombineArgs {
  const float* y;
  const float* weights;
  float* out;
  int64_t rows, n;
  int32_t slots;
};
void moe_combine(const CombineArgs& args, Stream stream);

}  // namespace nibble::cuda
