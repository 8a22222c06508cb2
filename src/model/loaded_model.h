// Loading: every tensor of a WeightSource repacked once into device memory, the views in
// ModelWeights.
//
// On a device that takes several threads (Device::pack_threads) layers are read and packed side by
// side. Sizes are known before a byte is read (packed_model_bytes), so the memory plan can refuse
// first. Long loads report progress and can be interrupted by the callback.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "model/placement.h"
#include "model/weight_source.h"
#include "model/weights.h"

#include <functional>
#include <memory>

namespace nibble::model {

/// Device bytes of the packed weights of the whole model, or of one layer.
size_t packed_model_bytes(const device::Device& device, const WeightSource& source);
size_t packed_layer_bytes(const device::Device& device, const WeightSource& source, int layer);

/// Called on the loading thread with (parts begun, total); false cancels the load
/// (ErrorCode::cancelled).
using LoadProgress = std::function<bool(int done, int total)>;

/// All weights of a model in device memory.
class LoadedModel {
 public:
  /// `source` must outlive the model when its embedding table is mapped.
  static Result<std::unique_ptr<LoadedModel>> load(device::Device& device, WeightSource& source,
                                                   const LoadProgress& progress);
  const ModelWeights& weights() const { return weights_; }

 private:
  LoadedModel() = default;
  std::unique_ptr<device::Memory> memory_;
  ModelWeights weights_;
};

/// The weights of one layer, for running layer by layer (calibration, streamed evaluation).
class LoadedLayer {
 public:
  static Result<LoadedLayer> load(device::Device& device, WeightSource& source, int layer);
  const LayerWeights& weights() const { return weights_; }

 private:
  std::unique_ptr<device::Memory> memory_;
  LayerWeights weights_;
};

/// Final norm and output matrix alone: what streamed evaluation needs behind the last layer.
class LoadedHead {
 public:
  static Result<LoadedHead> load(device::Device& device, WeightSource& source);
  const device::HeadWeights& weights() const { return weights_; }

 private:
  std::unique_ptr<device::Memory> memory_;
  device::HeadWeights weights_;
};

/// Activation buffers this model needs on a device for steps of up to `max_rows` rows.
device::WorkspaceSpec workspace_spec(const formats::ModelConfig& config, int64_t max_rows);

}  // namespace nibble::model
