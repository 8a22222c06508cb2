// DummySource: deterministic random weights from a configuration alone, for measuring speed.
//
// Every element is a function of (tensor name, index): the same bits on every device and machine.
// Magnitudes keep activations near one, so a forward pass stays finite and the router spreads
// tokens over the experts. Formats follow the configuration's quantization_config.
#pragma once

#include "model/weight_source.h"
#include "tensor/tensor.h"

#include <array>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace nibble::model {

class DummySource : public WeightSource {
 public:
  explicit DummySource(formats::ModelConfig config) : config_(std::move(config)) {}

  const formats::ModelConfig& config() const override { return config_; }
  std::unique_ptr<WeightSource> fork() const override {
    return std::make_unique<DummySource>(config_);
  }
  formats::WeightFormat format(Member member, int layer) const override;
  formats::WeightFormat expert_format(int layer, bool shared) const override;
  Result<formats::LinearWeight> linear(Member member, int layer) override;
  Result<ExpertWeights> expert(int layer, int64_t index) override;
  Result<std::vector<float>> vector(Member member, int layer) override;
  Result<ConstTensorView> embedding() override;
  bool embedding_is_mapped() const override { return false; }
  Result<std::pair<float, float>> kv_scales(int layer) override;

 private:
  /// Bytes behind one generated matrix; overwritten by the next with the same index.
  struct Buffers {
    std::vector<std::byte> weight, scales;
  };
  formats::LinearWeight generate(const std::string& stem, formats::WeightFormat format, Shape shape,
                                 Buffers& buffers);

  formats::ModelConfig config_;
  NamePrefix prefix_;
  std::array<Buffers, 3> buffers_;
};

}  // namespace nibble::model
