// The memory behind KV pages and state slots: one block per pool, taken once, seen layer by layer.
//
// KV: layer by layer, keys then values, each [pages][kv heads][64][head_dim]. State: slot by slot,
// each slot the recurrent states and then the convolution windows of all DeltaNet layers, so that
// one slot is one contiguous copy (fork, save, restore).
#pragma once

#include "base/result.h"
#include "device/device.h"
#include "device/layer_cache.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace nibble::runtime {

enum class CacheKind { kv, state };

struct CacheGeometry {
  std::vector<CacheKind> layers;  // by layer number
  int64_t num_kv_heads = 0, head_dim = 0;
  DType kv_dtype = DType::bf16;  // f32, bf16 or f8_e4m3
  std::vector<float> k_scales, v_scales;  // by layer number; empty: 1
  int64_t num_value_heads = 0, key_head_dim = 0, value_head_dim = 0;
  int64_t conv_channels = 0, conv_columns = 0;
  DType conv_dtype = DType::bf16;  // f32 or bf16
};

/// One page, or one slot, in all layers that have it.
size_t kv_page_bytes(const CacheGeometry& geometry);
size_t state_slot_bytes(const CacheGeometry& geometry);

class CachePools {
 public:
  /// Errors: exhausted. The device outlives the pools.
  static Result<std::unique_ptr<CachePools>> create(device::Device& device,
                                                    const CacheGeometry& geometry,
                                                    int32_t num_pages, int32_t num_slots);

  /// By layer number: kv is filled for CacheKind::kv, state for CacheKind::state.
  std::span<const device::LayerCache> layers() const { return layers_; }
  size_t bytes() const;

 private:
  CachePools() = default;
  void place_kv(const CacheGeometry& geometry, int32_t num_pages);
  void place_state(const CacheGeometry& geometry);

  std::unique_ptr<device::Memory> kv_, state_;
  std::vector<device::LayerCache> layers_;
};

}  // namespace nibble::runtime
