#include "model/qwen3_5_moe/decoder.h"

namespace nibble::model {
void Decoder::embed(const device::StepPlan& plan, const ModelWeights& weights, TensorView hidden) {
  device_.embed(plan, weights.embed_tokens, hidden);
  device_.reduce(hidden);
  device_.report(plan, -1, "embed", hidden);
}

void Decoder::layer(const device::StepPlan& plan, const LayerWeights& weights,
                    const device::LayerCache& cache, TensorView hidden) {
  // With one rank each block adds to the residual stream itself. Several ranks would write a
  // partial sum (Accumulate::replace), reduce it, and add: that is the only place to change.
  NIBBLE_CHECK(placement_.size == 1, "several ranks are not built yet", placement_.size);
  const auto accumulate = device::Accumulate::add;
  const int index = weights.moe.layer;
  if (weights.type == formats::LayerType::full_attention) {
    device_.attention_block(plan, weights.attention, cache.kv, hidden, hidden, accumulate);
  } else {
    device_.delta_net_block(plan, weights.delta_net, cache.state, hidden, hidden, accumulate);
  }
  device_.report(plan, index, "after_mixer", hidden);
  device_.moe_block(plan, weights.moe, hidden, hidden, accumulate);
  device_.report(plan, index, "out", hidden);
}

void Decoder::forward(const device::StepPlan& plan, const ModelWeights& weights,
                      std::span<const device::LayerCache> caches, TensorView hidden) {
  NIBBLE_CHECK(caches.size() == weights.layers.size(), "one cache per layer", caches.size(),
               weights.layers.size());
  embed(plan, weights, hidden);
  for (size_t i = 0; i < caches.size(); ++i) layer(plan, weights.layers[i], caches[i], hidden);
}

void Decoder::head(const device::StepPlan& plan, const ModelWeights& weights,
                   ConstTensorView hidden, int64_t first, TensorView logits) {
  device_.head(plan, weights.head, hidden, TensorView(), first, logits);
  device_.gather(logits);
}

}  // namespace nibble::model
