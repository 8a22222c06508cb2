// Random experts of a small bank: what every device packs.
#pragma once

#include "base/rng.h"
#include "device/device.h"
#include "formats/linear_weight.h"
#include "selftest/random_data.h"

#include <cstdint>
#include <vector>

namespace nibble::selftest {

struct ExpertBank {
  static constexpr int64_t kExperts = 64;
  std::vector<OwnedWeight> gates, ups, downs;

  ExpertBank(formats::WeightFormat format, int64_t hidden, int64_t inner, Rng& rng);
  device::PackedExperts gate_up(device::Device& device, Buffers& buffers) const;
  device::PackedExperts down(device::Device& device, Buffers& buffers) const;
};

}  // namespace nibble::selftest
