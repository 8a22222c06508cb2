// The cached state of one layer: KV pages of a full-attention layer, or state slots of a DeltaNet
// layer.
//
// Views into the pools that runtime/ allocates once from the memory plan; pages and slots are
// addressed by number.
#pragma once

#include "tensor/dtype.h"

#include <cstddef>
#include <cstdint>

namespace nibble::device {

/// Keys (normed, rotated) and values: [pages][num_kv_heads][64][head_dim], element type f32, bf16
/// or f8_e4m3.
struct KvLayer {
  std::byte* k = nullptr;
  std::byte* v = nullptr;
  DType dtype = DType::bf16;
  float k_scale = 1.0f;  // f8_e4m3: value = code * scale
  float v_scale = 1.0f;
};

/// recurrent: [slots][value heads][key_head_dim][value_head_dim] f32, slots recurrent_stride
/// elements apart. conv_window: [slots][conv_columns][C], the newest columns of in_proj_qkv, oldest
/// first, in the activation type.
struct StateLayer {
  float* recurrent = nullptr;
  int64_t recurrent_stride = 0;
  std::byte* conv_window = nullptr;
  int64_t conv_stride_bytes = 0;
  int64_t conv_columns = 0;  // conv_kernel - 1 (+ drafts, later)
  DType conv_dtype = DType::bf16;
};

/// One of the two, by layer type.
struct LayerCache {
  KvLayer kv;
  StateLayer state;
};

}  // namespace nibble::device
