// Argument structs and launchers of the small CUDA operations: what device/cuda calls.
//
// Plain pointers and sizes; every pointer is device memory unless it says host. A launcher queues
// its kernels on the stream and returns; shapes were checked by the caller. No CUDA header is
// needed to include this.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace nibble::cuda {

using Stream = CUstream_st*;

enum class Element : int32_t { f32, bf16, f8_e4m3 };
enum class Format : int32_t { bf16, fp8, nvfp4 };

/// device::SequenceStep as kernels see it; device/cuda asserts that the layouts agree.
struct Sequence {
  int32_t kind, first_row, q_len, kv_len, read_slot, write_slot;
};
struct StateSave {
  int32_t sequence, num_tokens, slot;
};
/// The parts of a StepPlan that walk sequences.
struct Step {
  int32_t rows, sequences, saves, page_stride;
  const int32_t* token_ids;
  const int32_t* positions;
  const int32_t* row_sequence;
  const Sequence* sequence;
  const int32_t* page_table;
  const StateSave* save;
};

// ---- Rows in, rows out

struct EmbedArgs {
  const void* table;
  Element table_type;
  const int32_t* token_ids;
  const int32_t* override_index;  // or null
  const void* overrides;
  Element override_type;
  float* out;
  int64_t rows, n;
};
void embed(const EmbedArgs& args, Stream stream);

struct RmsNormArgs {
  const float* x;
  const float* weight;
  void* out;
  Element out_type;
  int64_t rows, n;
  float eps;
  const int32_t* row_index;  // x row of each output row, or null
};
void rms_norm(const RmsNormArgs& args, Stream stream);

struct QkNormRopeArgs {
  Step step;
  const float* q_gate;  // row stride q_stride
  float* q;
  float* gate;
  const float* k_in;  // row stride k_stride
  float* k;  // [rows][kv_heads * head_dim], may be k_in
  int64_t q_stride, k_stride;
  const float* q_norm;
  const float* k_norm;
  const float* inverse_frequencies;
  int32_t num_heads, num_kv_heads, head_dim, rotary_dim;
  int32_t mrope_section[3];
  float eps;
};
void qk_norm_rope(const QkNormRopeArgs& args, Stream stream);

struct SigmoidGateArgs {
  const float* x;
  const float* gate;
  void* out;
  Element out_type;
  int64_t count;
};
void sigmoid_gate(const SigmoidGateArgs& args, Stream stream);

struct DeltaGatesArgs {
  float* a_to_g;
  float* b_to_beta;
  const float* a_log;
  const float* dt_bias;
  int64_t rows, heads;
};
void delta_gates(const DeltaGatesArgs& args, Stream stream);

struct GatedRmsNormArgs {
  const float* core;
  const float* z;
  const float* weight;
  void* out;
  Element out_type;
  int64_t rows, heads, head_dim;
  float eps;
};
void gated_rms_norm(const GatedRmsNormArgs& args, Stream stream);

struct AddSharedArgs {
  const float* base;  // null: zeros; may be out
  const float* routed;
  const float* shared;
  float* gate_logit;  // sigmoid is written back
  float* out;
  int64_t rows, n;
};
void moe_add_shared(const AddSharedArgs& args, Stream stream);

/// out += x.
void add(const float* x, float* out, int64_t count, Stream stream);

void gather_rows(const float* x, const int32_t* rows, void* out, Element out_type, int64_t num_rows,
                 int64_t n, Stream stream);

// ---- Attention

struct KvCache {
  void* k;
  void* v;
  Element type;
  float k_scale, v_scale;
};

struct KvStoreArgs {
  Step step;
  KvCache cache;
  const float* k;
  const float* v;
  int32_t num_kv_heads, head_dim;
};
void kv_store(const KvStoreArgs& args, Stream stream);

struct AttentionArgs {
  Step step;
  KvCache cache;
  const float* q;  // [rows][heads * head_dim]
  float* core;
  int32_t num_heads, num_kv_heads, head_dim;
  float* partial;  // scratch of attention_scratch_floats
  int32_t num_splits;
  bool exact_products;  // f32 products (f32 arithmetic); else BF16 operands are allowed
};
/// Key ranges into which the rows of a step are cut so that the card is full.
int32_t attention_splits(int64_t rows, int64_t sequences, int32_t num_kv_heads);
size_t attention_scratch_floats(int64_t max_rows, int32_t num_heads, int32_t head_dim);
void attention(const AttentionArgs& args, Stream stream);

// ---- DeltaNet

struct ShortConvArgs {
  Step step;
  const void* x;  // [rows][channels], type
  float* out;
  Element type;
  const float* weight;  // [channels][kernel]
  int64_t channels;
  int32_t kernel, columns;
  void* window;
  int64_t window_stride_bytes;
};
void short_conv(const ShortConvArgs& args, Stream stream);
/// Only the saves of the step and the new window.
void conv_window(const ShortConvArgs& args, Stream stream);

struct GatedDeltaArgs {
  Step step;
  const float* qkv;  // [rows][2 * key_heads * dk + value_heads * dv]
  const float* g;  // [rows][value_heads]
  const float* beta;
  float* core;
  int32_t num_key_heads, num_value_heads, key_head_dim, value_head_dim;
  float* state;
  int64_t state_stride;
  float* scalars;  // scratch of delta_scratch_floats
};
size_t delta_scratch_floats(int64_t max_rows, int32_t num_value_heads);
void gated_delta(const GatedDeltaArgs& args, Stream stream);

/// Whether this build has kernels for the current GPU.
bool has_code_for_device();

// ---- Random data on the device: the streams of base/rng.h

void fill_random_bytes(void* out, size_t bytes, uint64_t seed, uint64_t keep, uint64_t add,
                       Stream stream);

}  // namespace nibble::cuda
