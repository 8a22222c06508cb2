// The weights of the text model as views; the bytes belong to a LoadedModel or a LoadedLayer.
#pragma once

#include "device/weights.h"
#include "formats/hf_config.h"
#include "tensor/tensor_view.h"

#include <vector>

namespace nibble::model {

struct LayerWeights {
  formats::LayerType type = formats::LayerType::linear_attention;
  device::AttentionWeights attention;  // full_attention layers
  device::DeltaNetWeights delta_net;  // linear_attention layers
  device::MoeWeights moe;
  float k_scale = 1.0f;  // FP8 KV pages: value = code * scale
  float v_scale = 1.0f;
};

struct ModelWeights {
  ConstTensorView embed_tokens;  // [V, H] bf16
  std::vector<LayerWeights> layers;
  device::HeadWeights head;
};

}  // namespace nibble::model
