// CheckpointSource: a Checkpoint as a WeightSource, validated whole before anything is loaded.
//
// Unknown, missing and misshapen tensors and non-finite scales are all listed in one error. What a
// matrix is stored as is decided by the tensors that are there (weight_scale_2 present: NVFP4),
// never by the configuration.
#pragma once

#include "formats/checkpoint.h"
#include "model/weight_source.h"

#include <memory>
#include <utility>
#include <vector>

namespace nibble::model {

class CheckpointSource : public WeightSource {
 public:
  /// `checkpoint` must outlive the source.
  static Result<std::unique_ptr<CheckpointSource>> open(const formats::Checkpoint& checkpoint,
                                                        const formats::ModelConfig& config);

  const formats::ModelConfig& config() const override { return config_; }
  std::unique_ptr<WeightSource> fork() const override {
    return std::unique_ptr<WeightSource>(new CheckpointSource(checkpoint_, config_, prefix_));
  }
  const NamePrefix& prefix() const { return prefix_; }
  /// True if layer's routed experts are stored as fused banks.
  bool has_fused_experts(int layer) const;

  formats::WeightFormat format(Member member, int layer) const override;
  formats::WeightFormat expert_format(int layer, bool shared) const override;
  Result<formats::LinearWeight> linear(Member member, int layer) override;
  Result<ExpertWeights> expert(int layer, int64_t index) override;
  Result<std::vector<float>> vector(Member member, int layer) override;
  Result<ConstTensorView> embedding() override;
  bool embedding_is_mapped() const override { return true; }
  Result<std::pair<float, float>> kv_scales(int layer) override;
  void release_pages() const override { checkpoint_.release_pages(); }

 private:
  CheckpointSource(const formats::Checkpoint& checkpoint, const formats::ModelConfig& config,
                   NamePrefix prefix)
      : checkpoint_(checkpoint), config_(config), prefix_(std::move(prefix)) {}

  Result<void> validate();
  Result<formats::LinearWeight> named_linear(Member member, int layer, int64_t expert) const;
  formats::WeightFormat stored_format(Member member, int layer, int64_t expert) const;

  const formats::Checkpoint& checkpoint_;
  formats::ModelConfig config_;
  NamePrefix prefix_;
};

}  // namespace nibble::model
