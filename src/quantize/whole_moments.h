// WholeMoments: second moments of all inputs of a matrix, factored: what rounding with error
// feedback (`--scales gptq`) works on.
//
// A routed expert sees few tokens, so its moments are drawn towards those of the whole layer, as in
// moments.h. Matrices with the same input, which come one after the other, share one.
#pragma once

#include "device/device.h"
#include "quantize/layer_inputs.h"

#include <cstdint>
#include <map>
#include <optional>
#include <utility>

namespace nibble::quantize {

/// One layer's. One thread. In memory: four square matrices of f32 with as many columns as the
/// input, and up to two that experts are drawn towards.
class WholeMoments {
 public:
  /// The device must outlive it.
  explicit WholeMoments(device::Device& device) : device_(device) {}

  /// Null where no input was seen, all were 0, or their moments are not finite: weigh all errors
  /// alike there. Valid until the next call. inputs: the same layer's in every call.
  Result<const device::FactoredMoments*> of(const LayerInputs& inputs, model::Member member,
                                            int64_t expert);

 private:
  Result<device::InputMoments> summed(const LayerInputs& inputs, model::Member member,
                                      int64_t expert);
  Result<void> add(const LayerInputs& inputs, model::Member member, int64_t expert,
                   device::InputMoments* sums);
  Result<const device::InputMoments*> prior(const LayerInputs& inputs, model::Member member);

  device::Device& device_;
  std::map<model::Member, device::InputMoments> priors_;  // by the first member they are for
  std::optional<std::pair<model::Member, int64_t>> held_;  // first member of the input, expert
  bool is_usable_ = false;
  device::FactoredMoments factored_;
};

}  // namespace nibble::quantize
