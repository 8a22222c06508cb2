// Parts of a slot begin at multiples of 64 bytes; pages are multiples of 64 elements anyway.
#include "runtime/cache_pools.h"

#include "base/check.h"

#include <algorithm>

namespace nibble::runtime {

namespace {

size_t aligned(size_t bytes) {
  return (bytes + 63) / 64 * 64;
}

size_t count_of(const CacheGeometry& geometry, CacheKind kind) {
  return static_cast<size_t>(std::count(geometry.layers.begin(), geometry.layers.end(), kind));
}

/// Keys, or values, of one page in one layer.
size_t page_side_bytes(const CacheGeometry& geometry) {
  return static_cast<size_t>(geometry.num_kv_heads * device::kPageTokens * geometry.head_dim) *
         dtype_bytes(geometry.kv_dtype);
}

size_t recurrent_bytes(const CacheGeometry& geometry) {
  return aligned(static_cast<size_t>(geometry.num_value_heads * geometry.key_head_dim *
                                     geometry.value_head_dim) *
                 sizeof(float));
}

size_t window_bytes(const CacheGeometry& geometry) {
  return aligned(static_cast<size_t>(geometry.conv_channels * geometry.conv_columns) *
                 dtype_bytes(geometry.conv_dtype));
}

}  // namespace

size_t kv_page_bytes(const CacheGeometry& geometry) {
  return count_of(geometry, CacheKind::kv) * 2 * page_side_bytes(geometry);
}

size_t state_slot_bytes(const CacheGeometry& geometry) {
  return count_of(geometry, CacheKind::state) *
         (recurrent_bytes(geometry) + window_bytes(geometry));
}

Result<std::unique_ptr<CachePools>> CachePools::create(device::Device& device,
                                                       const CacheGeometry& geometry,
                                                       int32_t num_pages, int32_t num_slots) {
  const DType kv = geometry.kv_dtype;
  NIBBLE_CHECK(kv == DType::f32 || kv == DType::bf16 || kv == DType::f8_e4m3, "KV dtype",
               dtype_name(kv));
  const auto scales_fit = [&](const std::vector<float>& scales) {
    return scales.empty() || scales.size() == geometry.layers.size();
  };
  NIBBLE_CHECK(scales_fit(geometry.k_scales) && scales_fit(geometry.v_scales),
               "one KV scale per layer", geometry.k_scales.size(), geometry.v_scales.size());
  std::unique_ptr<CachePools> pools(new CachePools());
  pools->layers_.resize(geometry.layers.size());
  const size_t kv_bytes = kv_page_bytes(geometry) * static_cast<size_t>(num_pages);
  if (kv_bytes > 0) {
    NIBBLE_ASSIGN_OR_RETURN(pools->kv_, device.allocate(kv_bytes, "KV pages"));
    pools->place_kv(geometry, num_pages);
  }
  const size_t state_bytes = state_slot_bytes(geometry) * static_cast<size_t>(num_slots);
  if (state_bytes > 0) {
    NIBBLE_ASSIGN_OR_RETURN(pools->state_, device.allocate(state_bytes, "state slots"));
    pools->place_state(geometry);
  }
  return pools;
}

void CachePools::place_kv(const CacheGeometry& geometry, int32_t num_pages) {
  const size_t side = page_side_bytes(geometry) * static_cast<size_t>(num_pages);
  std::byte* next = kv_->data();
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (geometry.layers[i] != CacheKind::kv) continue;
    device::KvLayer& layer = layers_[i].kv;
    layer.k = next;
    layer.v = next + side;
    layer.dtype = geometry.kv_dtype;
    if (!geometry.k_scales.empty()) layer.k_scale = geometry.k_scales[i];
    if (!geometry.v_scales.empty()) layer.v_scale = geometry.v_scales[i];
    next += 2 * side;
  }
}

void CachePools::place_state(const CacheGeometry& geometry) {
  const size_t slot = state_slot_bytes(geometry);
  std::byte* recurrent = state_->data();
  std::byte* window = recurrent + count_of(geometry, CacheKind::state) * recurrent_bytes(geometry);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (geometry.layers[i] != CacheKind::state) continue;
    device::StateLayer& layer = layers_[i].state;
    layer.recurrent = reinterpret_cast<float*>(recurrent);
    layer.recurrent_stride = static_cast<int64_t>(slot / sizeof(float));
    layer.conv_window = window;
    layer.conv_stride_bytes = static_cast<int64_t>(slot);
    layer.conv_columns = geometry.conv_columns;
    layer.conv_dtype = geometry.conv_dtype;
    recurrent += recurrent_bytes(geometry);
    window += window_bytes(geometry);
  }
}

size_t CachePools::bytes() const {
  return (kv_ ? kv_->bytes() : 0) + (state_ ? state_->bytes() : 0);
}

}  // namespace nibble::runtime
