// Names of ModelOpt's quantizers, under which activation and weight maxima are kept.
//
// Most are the module's name and ".input_quantizer"; the routed experts of a layer share one input
// quantizer per projection and have one weight quantizer per expert for gate and up together.
#pragma once

#include "model/tensor_rules.h"

#include <cstdint>
#include <string>

namespace nibble::quantize {

/// For a linear member; layer is ignored for lm_head. expert_gate and expert_up share theirs.
std::string input_quantizer(const model::NamePrefix& prefix, model::Member member, int layer);
std::string weight_quantizer(const model::NamePrefix& prefix, model::Member member, int layer,
                             int64_t expert);
/// k_proj or v_proj: of K after norm and rotation, of V.
std::string kv_quantizer(const model::NamePrefix& prefix, model::Member member, int layer);

}  // namespace nibble::quantize
