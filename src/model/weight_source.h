// WeightSource: where the loader gets its matrices: a checkpoint on disk, or deterministic random
// bits.
//
// Views stay valid until the next call on the same source (a checkpoint's: as long as the
// checkpoint is open). One thread at a time.
#pragma once

#include "base/result.h"
#include "formats/linear_weight.h"
#include "model/tensor_rules.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace nibble::model {

/// The three matrices of one expert.
struct ExpertWeights {
  formats::LinearWeight gate, up, down;
};

/// Index of the shared expert in WeightSource::expert.
inline constexpr int64_t kSharedExpert = -1;

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual const formats::ModelConfig& config() const = 0;
  /// The same weights for another thread; may outlive this source.
  virtual std::unique_ptr<WeightSource> fork() const = 0;

  /// Format of a linear member, known without reading data (memory plan).
  virtual formats::WeightFormat format(Member member, int layer) const = 0;
  virtual formats::WeightFormat expert_format(int layer, bool shared) const = 0;

  virtual Result<formats::LinearWeight> linear(Member member, int layer) = 0;
  virtual Result<ExpertWeights> expert(int layer, int64_t index) = 0;
  /// A plain tensor as f32.
  virtual Result<std::vector<float>> vector(Member member, int layer) = 0;
  /// The embedding table [V, H], BF16.
  virtual Result<ConstTensorView> embedding() = 0;
  /// True if embedding() stays valid as long as the source.
  virtual bool embedding_is_mapped() const = 0;
  /// FP8 KV scales of a full-attention layer; 1 when the checkpoint has none.
  virtual Result<std::pair<float, float>> kv_scales(int layer) = 0;

  /// For callers that walk through a model once: what was read may leave the memory; views stay.
  virtual void release_pages() const {}
};

}  // namespace nibble::model
