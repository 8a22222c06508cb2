// Weights as the block operations take them: views of device memory in the layout of that device's
// kernels.
//
// Filled by model/loaded_model from the tensor rules; the bytes belong to the device arena of the
// LoadedModel.
#pragma once

#include "formats/linear_weight.h"
#include "tensor/tensor_view.h"

#include <cstddef>
#include <cstdint>

namespace nibble::device {

using formats::WeightFormat;

/// y = x W^T with W [out_features, in_features]. The layout behind `data` is private to the device.
struct PackedLinear {
  WeightFormat format = WeightFormat::bf16;
  int64_t out_features = 0;
  int64_t in_features = 0;
  const std::byte* data = nullptr;
  float tensor_scale = 1.0f;  // NVFP4 weight_scale_2, FP8 weight_scale: multiplies the accumulator
};

/// A bank of equally shaped matrices, one per expert. The shared expert is a bank of one.
struct PackedExperts {
  WeightFormat format = WeightFormat::bf16;
  int64_t num_experts = 0;
  int64_t out_features = 0;  // per expert; for gate_up: 2 * moe_intermediate_size, gate and up
  int64_t in_features = 0;
  const std::byte* data = nullptr;
  size_t expert_stride_bytes = 0;
  const float* tensor_scales = nullptr;  // gate_up: [experts][2] (gate, up); down: [experts]
};

struct AttentionWeights {
  int layer = 0;
  int64_t num_heads = 0, num_kv_heads = 0, head_dim = 0;  // this rank's
  const float* input_norm = nullptr;  // [H], used as (1 + w)
  const float* q_norm = nullptr;  // [head_dim], (1 + w)
  const float* k_norm = nullptr;  // [head_dim], (1 + w)
  PackedLinear q_proj;  // per head: head_dim query rows, then head_dim gate rows
  PackedLinear k_proj, v_proj, o_proj;
};

struct DeltaNetWeights {
  int layer = 0;
  int64_t num_key_heads = 0, num_value_heads = 0, key_head_dim = 0, value_head_dim = 0;
  int64_t conv_kernel = 0;
  const float* input_norm = nullptr;  // [H], (1 + w)
  PackedLinear in_proj_qkv, in_proj_z, in_proj_b, in_proj_a, out_proj;
  const float* conv = nullptr;  // [C][conv_kernel], the last tap meets the newest column
  const float* a_log = nullptr;  // [num_value_heads]
  const float* dt_bias = nullptr;  // [num_value_heads]
  const float* norm = nullptr;  // [value_head_dim], plain w
};

struct MoeWeights {
  int layer = 0;
  int64_t num_experts = 0, num_experts_per_tok = 0;
  const float* post_norm = nullptr;  // [H], (1 + w)
  PackedLinear router;  // [E, H]
  PackedExperts gate_up, down;
  PackedExperts shared_gate_up, shared_down;  // num_experts 1
  PackedLinear shared_expert_gate;  // [1, H]
  /// Norm of the block that reads this one's output next, if nothing writes it in between: a device
  /// may do it here. Null: not known.
  const float* next_norm = nullptr;
};

struct HeadWeights {
  const float* final_norm = nullptr;  // [H], (1 + w)
  PackedLinear lm_head;  // [V, H]
};

}  // namespace nibble::device
