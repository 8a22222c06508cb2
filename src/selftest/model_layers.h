// Random layers with the shapes of the 35B-A3B model, the same values on every device they are put
// on.
#pragma once

#include "base/rng.h"
#include "device/device.h"
#include "formats/linear_weight.h"
#include "selftest/random_data.h"

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace nibble::selftest {

inline constexpr int64_t kHidden = 2048;

/// Magnitude::unit: a chain of products keeps its size.
OwnedWeight unit_weight(formats::WeightFormat format, int64_t n, int64_t k, Rng& rng);

/// 16 query heads on 2 KV heads of 256.
class AttentionLayer {
 public:
  static constexpr int64_t kKvElements = 512;  // of one token's keys, and of its values

  AttentionLayer(formats::WeightFormat format, Rng& rng);
  device::AttentionWeights put(Buffers& buffers) const;

 private:
  OwnedWeight q_, k_, v_, o_;
  std::vector<float> norm_, q_norm_, k_norm_;
};

/// 16 key heads and 32 value heads of 128, a convolution of 4.
class DeltaNetLayer {
 public:
  static constexpr int64_t kChannels = 8192, kStateElements = 32 * 128 * 128;

  DeltaNetLayer(formats::WeightFormat format, Rng& rng);
  device::DeltaNetWeights put(Buffers& buffers) const;

 private:
  OwnedWeight qkv_, z_, b_, a_, out_;
  std::vector<float> input_norm_, conv_, a_log_, dt_bias_, norm_;
};

/// 256 NVFP4 experts made of 32 random ones in other combinations, each with scales of its own; 8
/// of them a token, and a shared one.
class ExpertsLayer {
 public:
  static constexpr int64_t kChosen = 8;

  explicit ExpertsLayer(Rng& rng);
  /// Rounding to E4M3 changes nothing: with rows of fp8_exact_residual(), norms, silu(gate) * up
  /// and all weights are E4M3 values times powers of two. A gate or up output is one input times a
  /// power of two, gates are large or nothing; down matrices are dense.
  static ExpertsLayer fp8_exact(Rng& rng);
  /// About 450 MB of the device's memory: once a device.
  device::MoeWeights put(device::Device& device, Buffers& buffers) const;

 private:
  std::pair<device::PackedExperts, device::PackedExperts> banks(device::Device& device,
                                                                Buffers& buffers,
                                                                size_t experts) const;

  ExpertsLayer() = default;

  std::vector<OwnedWeight> gates_, ups_, downs_;
  OwnedWeight router_, shared_gate_;
  std::vector<float> norm_;
  float spread_ = 0.5f;  // of the experts' own scales around 1
};

/// Rows of +-0.5, +-1 and +-1.5 with a root mean square of exactly 1.
std::vector<float> fp8_exact_residual(int64_t rows, Rng& rng);

}  // namespace nibble::selftest
