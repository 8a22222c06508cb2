#include "selftest/expert_bank.h"

namespace nibble::selftest {

using device::Device;

ExpertBank::ExpertBank(formats::WeightFormat format, int64_t hidden, int64_t inner, Rng& rng) {
  for (int64_t e = 0; e < kExperts; ++e) {
    gates.push_back(random_weight(format, inner, hidden, Magnitude::any, rng));
    ups.push_back(random_weight(format, inner, hidden, Magnitude::any, rng));
    downs.push_back(random_weight(format, hidden, inner, Magnitude::any, rng));
  }
}

device::PackedExperts ExpertBank::gate_up(Device& device, Buffers& buffers) const {
  const formats::LinearWeight& g = gates[0].view;
  const size_t stride =
      (device.packed_gate_up_bytes(g.format, g.out_features, g.in_features) + 63) / 64 * 64;
  std::byte* bank = buffers.take(stride * kExperts);
  std::vector<float> scales;
  for (size_t e = 0; e < kExperts; ++e) {
    device.pack_gate_up(gates[e].view, ups[e].view, bank + e * stride);
    scales.insert(scales.end(), {gates[e].view.weight_scale_2, ups[e].view.weight_scale_2});
  }
  return {g.format, kExperts, 2 * g.out_features, g.in_features, bank, stride, buffers.put(scales)};
}

device::PackedExperts ExpertBank::down(Device& device, Buffers& buffers) const {
  const formats::LinearWeight& d = downs[0].view;
  const size_t stride =
      (device.packed_linear_bytes(d.format, d.out_features, d.in_features) + 63) / 64 * 64;
  std::byte* bank = buffers.take(stride * kExperts);
  std::vector<float> scales;
  for (size_t e = 0; e < kExperts; ++e) {
    scales.push_back(device.pack_linear(downs[e].view, bank + e * stride).tensor_scale);
  }
  return {d.format, kExperts, d.out_features, d.in_features, bank, stride, buffers.put(scales)};
}

}  // namespace nibble::selftest
