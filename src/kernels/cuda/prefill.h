// Large steps: the expert layer of the 35B-A3B shapes as grouped tensor-core products, attention
// and delta rule on tensor cores, and the row-wise passes around them.
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

/// Counters lie in lines of their own: additions to one line wait for each other.
constexpr int32_t kCountStride = 32;

struct PrefillTable {
  int32_t* experts;  // [pairs]
  float* weights;  // [pairs]
  int32_t* pairs;  // sorted by expert
  int32_t* position;  // [pairs] place of a pair in `pairs`
  int32_t* first;  // [257] begin of each expert's pairs
  int32_t* count;  // [257][kCountStride] pairs of each expert; zero between steps
  int32_t* counts;  // tiles: gate_up wide, narrow; down wide, narrow
  Tile* tiles;  // the four lists, tile_capacity each
  int32_t tile_capacity;
};
int32_t prefill_tile_capacity(int64_t max_pairs);

/// x = bf16(rms_norm(h)); in front of experts (gate_weight) the shared expert's gate logit and x
/// once more with k in the order of the grouped products, BF16 or E4M3 (fp8_rows.h); in front of
/// mixers E4M3 rows are in plain order.
struct PrefillNormArgs {
  const float* h;
  const float* weight;
  const void* gate_weight;  // bf16 [2048], or null
  void* x;  // or null, with fp8
  void* permuted;  // bf16 [rows][2048], or null
  float* logits;  // [rows][kLogitStride]; column 256 is written, with gate_weight
  int64_t rows;
  float eps;
  void* fp8 = nullptr;  // [rows][2048], or null
  float* fp8_scales = nullptr;  // [rows]
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
  const void* x;  // gate_up: permuted rows; down: rows of 512, sorted order, permuted
  // Of E4M3 rows: scale of each row of x, and k permuted their way (nvfp4_fp8.cuh). Null: BF16.
  const float* x_scales;
  // bf16 in sorted order; gate_up: [pairs][512], permuted for down (E4M3: not); down [pairs][2048]
  void* out;
};
void prefill_gate_up(const GroupedArgs& args, Stream stream);
void prefill_down(const GroupedArgs& args, Stream stream);

/// BF16 rows of 512 to permuted E4M3 rows and their scales: from gate_up's output to down's input.
struct PrefillFp8SlotsArgs {
  const void* x;
  void* out;
  float* scales;
  int64_t rows;
};
void prefill_fp8_slots(const PrefillFp8SlotsArgs& args, Stream stream);

/// h[row] += sum over the nine pairs in slot order of weight * y; then, unless next.weight is null,
/// the norm of the new h (next.h is not looked at).
void prefill_combine(const void* y, const PrefillTable& table, float* h, int64_t rows,
                     const PrefillNormArgs& next, Stream stream);

constexpr int32_t kPrefillHeadDim = 256;
/// Causal attention of any rows, heads of 256, eight queries per KV head, BF16 or FP8 pages.
struct PrefillAttentionArgs {
  Step step;
  KvCache cache;
  const float* q;  // [rows][heads * 256], or null with q_bf16
  const void* q_bf16;
  float* core;  // [rows][heads * 256]: the result, or with gated only room for sums
  const void* gate;  // of head h of a row: gate[row * gate_stride + h * 512 ..]
  Element gate_type;  // f32, bf16
  int64_t gate_stride;
  void* gated;  // bf16 [rows][heads * 256]: core * sigmoid(gate)
  int32_t num_heads, num_kv_heads;
  int32_t num_pages;  // of all sequences: StepPlan::num_kv_pages
  int32_t page_capacity;  // pages of a pass; a step of more needs core and softmax between passes
  void* tiles;  // page_capacity * prefill_attention_page_bytes
  float* softmax;  // [rows][heads][8]
};
size_t prefill_attention_page_bytes(int64_t num_kv_heads);
bool can_prefill_attention(const AttentionArgs& args);
void prefill_attention(const PrefillAttentionArgs& args, Stream stream);

/// The delta rule of large steps from the input projection on: convolution, SiLU, L2 norms, gates
/// and the chunked rule (heads of 128, two value heads a key head, kernel 4). The convolution's
/// window is not written (conv_window).
constexpr int64_t kMaxDeltaSequences = 64;
struct PrefillDeltaArgs {
  Step step;  // at most kMaxDeltaSequences
  const void* qkv;  // bf16 [rows][2 * key_heads * 128 + value_heads * 128], before the convolution
  const float* conv;  // [channels][4]
  const void* window;  // bf16 [slots][3][channels]
  int64_t window_stride_bytes;
  const float* a;  // [rows][value_heads], row stride gate_stride
  const float* b;
  int64_t gate_stride;
  const float* a_log;
  const float* dt_bias;
  int32_t num_key_heads, num_value_heads;
  float* state;
  int64_t state_stride;
  void* scratch;  // prefill_delta_bytes
  void* core;  // f16 [rows][value_heads * 128]
};
size_t prefill_delta_bytes(int64_t max_rows, int32_t num_key_heads, int32_t num_value_heads);
/// First what does not wait for the state, on every multiprocessor, then the scan over chunks, on
/// prefill_scan_blocks of them.
void prefill_delta_terms(const PrefillDeltaArgs& args, Stream stream);
void prefill_delta_scan(const PrefillDeltaArgs& args, Stream stream);
int64_t prefill_scan_blocks(int64_t sequences, int32_t num_value_heads);

/// out = bf16(rms_norm(core) * weight * silu(z)), heads of 128; where fp8_scales is not null, as
/// E4M3 rows (fp8_rows.h) of kFp8GatedHeads heads.
constexpr int64_t kFp8GatedHeads = 32;
struct PrefillGatedNormArgs {
  const void* core;  // f16
  const void* z;
  Element z_type;  // f32, bf16
  const float* weight;
  void* out;
  int64_t rows, heads;
  float eps;
  float* fp8_scales = nullptr;  // [rows]
};
void prefill_gated_norm(const PrefillGatedNormArgs& args, Stream stream);

/// QK norm and rotary embedding of heads of 256; q rounded to BF16, k and v into their pages.
struct PrefillRotaryArgs {
  Step step;
  KvCache cache;
  const void* q_gate;  // [rows][heads][512]: query, gate
  Element q_gate_type;  // f32, bf16
  const float* k;  // [rows][kv_heads * 256], row stride kv_stride
  const float* v;
  int64_t kv_stride;
  const float* q_norm;
  const float* k_norm;
  const float* inverse_frequencies;
  void* q;  // bf16 [rows][heads * 256]
  int32_t num_heads, num_kv_heads, rotary_dim;  // rotary_dim: 64
  int32_t mrope_section[3];
  float eps;
};
void prefill_rotary(const PrefillRotaryArgs& args, Stream stream);

void prepare_prefill();

}  // namespace nibble::cuda
