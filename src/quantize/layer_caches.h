// LayerCaches: the KV pages and the state slot of one sequence in one layer, reused for every
// sequence and layer.
//
// Calibration keeps KV in f32 at f32 arithmetic and in BF16 at exact, so that maxima never see FP8
// rounding.
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "formats/hf_config.h"

#include <memory>
#include <vector>

namespace nibble::quantize {

class LayerCaches {
 public:
  /// Room for one sequence of up to `max_tokens` tokens.
  static Result<LayerCaches> create(device::Device& device, const formats::ModelConfig& config,
                                    int64_t max_tokens);

  const device::LayerCache& cache() const { return cache_; }
  /// The page table: pages 0, 1, 2, ...
  const std::vector<int32_t>& pages() const { return pages_; }

 private:
  std::vector<std::unique_ptr<device::Memory>> memory_;
  std::vector<int32_t> pages_;
  device::LayerCache cache_;
};

}  // namespace nibble::quantize
