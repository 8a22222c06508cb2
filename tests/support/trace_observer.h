// TraceObserver: keeps a copy of every reported tensor of a step, as f32, and can force the
// routing.
#pragma once

#include "device/observer.h"
#include "formats/bf16.h"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nibble::test {

class TraceObserver : public device::Observer {
 public:
  /// "L3.attn.q" for layer tensors, the bare name for others. Rows of later steps are appended.
  std::map<std::string, std::vector<float>> tensors;
  /// Per layer [rows][K]; empty: the router chooses.
  std::vector<std::vector<int32_t>> forced;

  static std::string key(int layer, std::string_view name) {
    const std::string prefix = layer < 0 ? "" : "L" + std::to_string(layer) + ".";
    return prefix + std::string(name);
  }

  void observe(int layer, std::string_view name, ConstTensorView tensor) override {
    std::vector<float>& out = tensors[key(layer, name)];
    const int64_t count = tensor.shape().elements();
    for (int64_t i = 0; i < count; ++i) {
      switch (tensor.dtype()) {
        case DType::bf16:
          out.push_back(formats::bf16_to_f32(tensor.as<uint16_t>()[i]));
          break;
        case DType::i32:
          out.push_back(static_cast<float>(tensor.as<int32_t>()[i]));
          break;
        default:
          out.push_back(tensor.as<float>()[i]);
      }
    }
  }

  const int32_t* forced_experts(int layer) override {
    return forced.empty() ? nullptr : forced[static_cast<size_t>(layer)].data();
  }
};

}  // namespace nibble::test
