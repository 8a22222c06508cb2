#include "quantize/quantizer_names.h"

#include "base/check.h"

namespace nibble::quantize {
namespace {

using model::Member;
using model::NamePrefix;

std::string layer_stem(const NamePrefix& prefix, int layer) {
  return prefix.text + "layers." + std::to_string(layer) + ".";
}

// "gate_up_proj" or "down_proj" for a routed expert's member, else nothing.
const char* bank_of(Member member) {
  if (member == Member::expert_gate || member == Member::expert_up) return "gate_up_proj";
  return member == Member::expert_down ? "down_proj" : nullptr;
}

}  // namespace

std::string input_quantizer(const NamePrefix& prefix, Member member, int layer) {
  if (const char* bank = bank_of(member)) {
    return layer_stem(prefix, layer) + "mlp.experts." + bank + "_input_quantizer";
  }
  return prefix.stem(member, layer) + ".input_quantizer";
}

std::string weight_quantizer(const NamePrefix& prefix, Member member, int layer, int64_t expert) {
  if (const char* bank = bank_of(member)) {
    return layer_stem(prefix, layer) + "mlp.experts." + bank + "_weight_quantizers." +
           std::to_string(expert);
  }
  return prefix.stem(member, layer) + ".weight_quantizer";
}

std::string kv_quantizer(const NamePrefix& prefix, Member member, int layer) {
  NIBBLE_CHECK(member == Member::k_proj || member == Member::v_proj, "K or V",
               static_cast<int>(member));
  return layer_stem(prefix, layer) + "self_attn." + (member == Member::k_proj ? "k" : "v") +
         "_bmm_quantizer";
}

}  // namespace nibble::quantize
