// Fused decode kernels for the 35B-A3B shapes: a chain of six kernels per layer with programmatic
// dependent launch (common.cuh says the rule).
//
// Shapes: hidden 2048, mixer width 4096, 256 experts of 512, top 8, heads of 256 (attention) and
// 128 (DeltaNet). "One row" kernels serve a step of one sequence; the others up to kMaxMmaRows
// rows.
#pragma once

#include "kernels/cuda/args.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/moe.h"

namespace nibble::cuda {

inline constexpr int kHidden = 2048, kMixer = 4096, kInner = 512, kExperts = 256, kRouted = 8;
inline constexpr int kLogitStride = 272;  // router logits and the shared gate, padded

/// Weights of a later kernel to pull into L2 behind the own loads; null: none.
struct Later {
  const uint8_t* data = nullptr;
  size_t bytes = 0;
};

/// Rows of up to four matrices that lie behind each other in the output.
struct Segments {
  static constexpr int kMax = 4;
  const void* data[kMax];
  Format format[kMax];  // bf16 or fp8
  int32_t end[kMax];  // output row behind the segment
  float scale[kMax];
  int32_t count;
};

/// Bytes per multiprocessor that decode_in_proj asks for before it may start.
inline constexpr size_t kInProjEarlyBytes = 4 * 16 * 2048;
/// out[rows] = W rms_norm(h), one row; segments end at multiples of 16.
struct InProjArgs {
  Segments segments;
  int32_t rows;
  const float* h;
  const float* norm_weight;
  float* out;
  float eps;
};
void decode_in_proj(const InProjArgs& args, Stream stream);

inline constexpr int kNormRows = 4;
/// out[m][rows] = x W^T, up to kMaxMmaRows rows of x; segments end at multiples of 16.
struct RowsArgs {
  Segments segments;
  int32_t rows;
  const void* x;  // bf16 [m][2048]; null: x = rms_norm(h), m at most kNormRows
  const float* h;
  const float* norm_weight;
  float eps;
  int32_t m;
  float* out;
  int64_t out_stride;
};
void decode_rows(const RowsArgs& args, Stream stream);

/// Convolution, gates and delta rule of rows = sequences. projection rows: q 2048 | k 2048 | v 4096
/// | z 4096 | b 32 | a 32. Leaves o * w * silu(z) in `gated` and the square sums of o in `squares`;
/// the convolution window is moved on by the kernel after (decode_out_proj, decode_gated).
struct DeltaDecodeArgs {
  Step step;
  const float* projection;
  int64_t projection_stride;
  const float* conv;
  const void* window;
  int64_t window_stride_bytes;
  const float* a_log;
  const float* dt_bias;
  const float* norm_weight;
  float* state;
  int64_t state_stride;
  float* gated;  // [rows][4096]
  float* squares;  // [rows][32][4]
};
void decode_delta(const DeltaDecodeArgs& args, Stream stream);

/// Moves the convolution windows of a step's sequences on by one column.
struct WindowArgs {
  Step step;
  const float* projection;
  int64_t projection_stride;
  void* window;  // null: none (attention layers)
  int64_t window_stride_bytes;
};

inline constexpr int kOutProjRows = 8;
/// h += W x, up to kOutProjRows rows; W [2048][4096] BF16 or FP8. x: BF16, or gated / squares of
/// decode_delta.
struct OutProjArgs {
  const void* weight;
  Format format;
  float scale;
  const void* x;  // bf16 [rows][4096], or null
  const float* gated;
  const float* squares;
  float* h;
  int32_t rows;
  float eps;
  WindowArgs window;
};
void decode_out_proj(const OutProjArgs& args, Stream stream);

/// BF16 rows of gated / squares, and the windows: for more rows than decode_out_proj takes.
struct GatedArgs {
  const float* gated;
  const float* squares;
  void* out;  // bf16 [rows][4096]
  int64_t rows;
  float eps;
  WindowArgs window;
};
void decode_gated(const GatedArgs& args, Stream stream);

/// QK norm, rotary, KV store and split-KV attention of rows = sequences; then the merge with the
/// output gate. projection rows: q and gate 16 x (256 + 256) | k 2 x 256 | v 2 x 256.
struct AttentionDecodeArgs {
  Step step;
  KvCache cache;  // bf16 or fp8
  const float* projection;
  int64_t projection_stride;
  const float* q_norm;
  const float* k_norm;
  const float* inverse_frequencies;
  int32_t mrope_section[3];
  float eps;
  float* partial;
  int32_t num_splits;  // at most 64
  void* out;  // bf16 [rows][4096]
};
void decode_attention(const AttentionDecodeArgs& args, Stream stream);

/// logits[257] = [router; shared gate] rms_norm(h), one row; leaves the normed row in x.
struct RouterArgs {
  const void* weight;  // bf16 [257][2048]
  const float* h;
  const float* norm_weight;
  void* x;
  float* logits;
  float eps;
  Later later;
};
void decode_router(const RouterArgs& args, Stream stream);

/// Experts of one row: top 8 from the logits, gate and up; then down, weights, shared expert, h +=.
struct ExpertsArgs {
  Bank gate_up, down, shared_gate_up, shared_down;
  const float* logits;
  const void* x;
  void* act;  // bf16 [9][512]
  float* h;
  int32_t* experts_out;  // [8] chosen experts, or null
};
void decode_gate_up(const ExpertsArgs& args, Stream stream);
void decode_down(const ExpertsArgs& args, Stream stream);

/// An expert of a step and who uses it: pairs are row * 9 + slot, in any order. A CTA reads it with
/// one request: all CTAs of a wave ask for the same few.
struct alignas(16) ExpertUsers {
  int32_t expert, users;
  uint16_t pairs[kMaxMmaRows];
};
/// Who uses which expert in a step of up to kMaxMmaRows rows. Entry 0 is the shared expert (slot 8
/// of every row, expert 256), the used ones follow; the rest has no users.
struct ExpertRowsTable {
  ExpertUsers* entries;  // [257]
  float* weights;  // [rows][9]
  uint32_t* finished;  // CTAs of the router that are done, 0 between launches
};

/// x = bf16(rms_norm(h)), logits[row][257] = [router; shared gate] x, top 8 and the table.
struct RouterRowsArgs {
  const void* weight;  // bf16 [257][2048]
  const float* h;
  const float* norm_weight;
  void* x;  // bf16 [rows][2048]
  float* logits;  // [rows][kLogitStride]
  int32_t rows;
  float eps;
  ExpertRowsTable table;
  int32_t* experts_out;  // [rows][8], or null
};
void decode_router_rows(const RouterRowsArgs& args, Stream stream);

/// act[pair] = SwiGLU of gate and up; outputs[pair] = down act[pair]; h[row] += the weighted sum of
/// its pairs in order of slots.
struct ExpertRowsArgs {
  Bank gate_up, down, shared_gate_up, shared_down;
  ExpertRowsTable table;
  const void* x;
  void* act;  // bf16 [rows * 9][512]
  float* outputs;  // [rows * 9][2048]
  float* h;  // [rows][2048]
  int32_t rows;
};
void decode_gate_up_rows(const ExpertRowsArgs& args, Stream stream);
void decode_down_rows(const ExpertRowsArgs& args, Stream stream);
void decode_combine_rows(const ExpertRowsArgs& args, Stream stream);

/// x = bf16(rms_norm(h)) of rows, PDL.
void decode_norm(const RmsNormArgs& args, Stream stream);
/// logits[n] = W x for one row, W BF16 (a one-shot grid) or NVFP4 in units (rings): the language
/// model head.
struct HeadArgs {
  const void* weight;
  Format format;
  float scale;  // NVFP4
  int64_t n;
  const void* x;
  float* logits;
};
void decode_head(const HeadArgs& args, Stream stream);

/// Sets the kernels' attributes: once, before the first launch.
void prepare_decode();

}  // namespace nibble::cuda
