#include "quantize/layer_caches.h"

#include <numeric>

namespace nibble::quantize {

Result<LayerCaches> LayerCaches::create(device::Device& device, const formats::ModelConfig& config,
                                        int64_t max_tokens) {
  LayerCaches out;
  const DType type = device.activation_dtype();
  const auto element = static_cast<int64_t>(dtype_bytes(type));
  const int64_t pages = (max_tokens + device::kPageTokens - 1) / device::kPageTokens;
  out.pages_.resize(static_cast<size_t>(pages));
  std::iota(out.pages_.begin(), out.pages_.end(), 0);

  const auto take = [&](int64_t bytes) -> Result<std::byte*> {
    NIBBLE_ASSIGN_OR_RETURN(auto memory,
                            device.allocate(static_cast<size_t>(bytes), "calibration cache"));
    out.memory_.push_back(std::move(memory));
    return out.memory_.back()->data();
  };
  device::KvLayer& kv = out.cache_.kv;
  const int64_t kv_bytes =
      pages * device::kPageTokens * config.num_key_value_heads * config.head_dim * element;
  kv.dtype = type;
  NIBBLE_ASSIGN_OR_RETURN(kv.k, take(kv_bytes));
  NIBBLE_ASSIGN_OR_RETURN(kv.v, take(kv_bytes));

  device::StateLayer& state = out.cache_.state;
  state.recurrent_stride =
      config.linear_num_value_heads * config.linear_key_head_dim * config.linear_value_head_dim;
  state.conv_columns = config.linear_conv_kernel_dim - 1;
  state.conv_dtype = type;
  state.conv_stride_bytes = state.conv_columns * config.linear_conv_size() * element;
  NIBBLE_ASSIGN_OR_RETURN(std::byte * recurrent,
                          take(state.recurrent_stride * static_cast<int64_t>(sizeof(float))));
  state.recurrent = reinterpret_cast<float*>(recurrent);
  NIBBLE_ASSIGN_OR_RETURN(state.conv_window, take(state.conv_stride_bytes));
  return out;
}

}  // namespace nibble::quantize
