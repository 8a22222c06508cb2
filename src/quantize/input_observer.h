// InputObserver: fills a layer's LayerStatistics from the taps of a forward pass.
#pragma once

#include "device/observer.h"
#include "formats/hf_config.h"
#include "quantize/layer_statistics.h"
#include "tensor/tensor.h"

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace nibble::quantize {

struct CalibrationRequest;

/// One thread. Used for one layer after the other: start_layer, any number of steps, finish_layer.
class InputObserver : public device::Observer {
 public:
  /// All references outlive the observer.
  InputObserver(const formats::ModelConfig& config, const model::NamePrefix& prefix,
                const CalibrationRequest& request);

  /// `out` is filled until finish_layer.
  void start_layer(int layer, LayerStatistics& out);
  /// The first error of keeping rows, if there was one.
  Result<void> finish_layer();

  /// Until the next start: steps are of noise, which counts for the inputs only.
  void start_noise();
  bool sees_noise() const { return sees_noise_; }

  void observe(int layer, std::string_view name, ConstTensorView tensor) override;

  /// With force_all_experts: the rows that went into the MLP in the last step.
  ConstTensorView mlp_rows() const { return forced_rows_.view(); }
  /// Inputs of down projections of experts that were not chosen: they count for the maxima only.
  void observe_forced_slots(ConstTensorView slots);

  void start_head(LayerStatistics& out);
  /// Normed hidden rows that go into the head.
  Result<void> observe_head_input(ConstTensorView rows);

 private:
  void raise(std::span<const model::Member> members, ConstTensorView tensor);
  void remember_experts(ConstTensorView experts);
  void start_moments();
  void add_moments(std::string_view name, ConstTensorView tensor);
  void add_expert_inputs();
  void add_expert_slots(ConstTensorView slots);

  const formats::ModelConfig& config_;
  const model::NamePrefix& prefix_;
  const CalibrationRequest& request_;
  int layer_ = 0;
  LayerStatistics* out_ = nullptr;
  bool sees_noise_ = false;
  Result<void> kept_;
  std::vector<bool> seen_;
  Tensor forced_rows_;
  // Of the step that is running: the router's choice and the rows it was made for.
  std::vector<int32_t> experts_;
  std::vector<float> expert_weights_, mlp_rows_;
};

}  // namespace nibble::quantize
