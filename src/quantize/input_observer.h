// InputObserver: takes the maxima, and on request the second moments, of linear layers' inputs off
// the taps of a forward pass.
#pragma once

#include "device/observer.h"
#include "formats/hf_config.h"
#include "quantize/activation_maxima.h"
#include "quantize/moments.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace nibble::quantize {

/// One thread. Used for one layer after the other: start_layer, any number of steps, finish_layer.
class InputObserver : public device::Observer {
 public:
  /// with_moments: gathers LayerMoments of each layer. All references outlive the observer.
  InputObserver(const formats::ModelConfig& config, const model::NamePrefix& prefix,
                ActivationMaxima& maxima, bool with_moments);

  void start_layer(int layer);
  /// How many of the layer's experts got a token.
  int64_t finish_layer();
  /// Of the layer last finished.
  const LayerMoments& moments() const { return moments_; }

  void observe(int layer, std::string_view name, ConstTensorView tensor) override;

  void start_head();
  /// Normed hidden rows that go into the head.
  void observe_head_input(ConstTensorView rows);

 private:
  void raise(std::span<const model::Member> members, ConstTensorView tensor);
  void remember_experts(ConstTensorView experts);
  void add_moments(std::string_view name, ConstTensorView tensor);
  void add_expert_inputs();
  void add_expert_slots(ConstTensorView slots);

  const formats::ModelConfig& config_;
  const model::NamePrefix& prefix_;
  ActivationMaxima& maxima_;
  bool with_moments_;
  int layer_ = 0;
  std::vector<bool> seen_;
  LayerMoments moments_;
  // Of the step that is running: the router's choice and the rows it was made for.
  std::vector<int32_t> experts_;
  std::vector<float> expert_weights_, mlp_rows_;
};

}  // namespace nibble::quantize
