// Decoder: the one forward pass of the text model, a loop over layers of block operations.
//
// Owns nothing but references. hidden is the residual stream [rows][H] f32 in device memory. Engine
// thread only.
#pragma once

#include "device/device.h"
#include "device/layer_cache.h"
#include "device/step_plan.h"
#include "model/placement.h"
#include "model/weights.h"

#include <span>

namespace nibble::model {

class Decoder {
 public:
  Decoder(device::Device& device, Placement placement) : device_(device), placement_(placement) {}

  /// Token rows of the step -> hidden.
  void embed(const device::StepPlan& plan, const ModelWeights& weights, TensorView hidden);

  /// One decoder layer, hidden in and out. Public: calibration and streamed evaluation run one
  /// layer at a time.
  void layer(const device::StepPlan& plan, const LayerWeights& weights,
             const device::LayerCache& cache, TensorView hidden);

  /// embed and all layers; caches: one per layer.
  void forward(const device::StepPlan& plan, const ModelWeights& weights,
               std::span<const device::LayerCache> caches, TensorView hidden);

  /// Final norm and logits of rows [first, first + logits.rows()) of plan.logit_rows. logits [n][V]
  /// f32.
  void head(const device::StepPlan& plan, const ModelWeights& weights, ConstTensorView hidden,
            int64_t first, TensorView logits);

 private:
  device::Device& device_;
  Placement placement_;
};

}  // namespace nibble::model
