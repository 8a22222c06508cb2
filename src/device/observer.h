// Observer: sees the intermediate tensors of a step (golden traces, calibration maxima) and may
// force the routing.
//
// Tensor names are those of the golden traces: "in_norm", "attn.q", "gdn.core",
// "moe.router_logits", ... Called on the engine thread between operations; views are host-readable
// and valid during the call only.
#pragma once

#include "tensor/tensor_view.h"

#include <cstdint>
#include <string_view>

namespace nibble::device {

class Observer {
 public:
  virtual ~Observer() = default;

  /// layer < 0 for tensors outside the layers ("embed", "final_norm", "logits").
  virtual void observe(int layer, std::string_view name, ConstTensorView tensor) = 0;

  /// Expert choice to use instead of the router's: [rows][num_experts_per_tok], or null. The
  /// weights are then the softmax over the forced experts' logits.
  virtual const int32_t* forced_experts(int /*layer*/) { return nullptr; }
};

}  // namespace nibble::device
