// Layers of 35B-A3B: drawn once on the host, packed into a device's buffers on request.
#include "selftest/model_layers.h"

#include <algorithm>
#include <tuple>

namespace nibble::selftest {
namespace {

using formats::WeightFormat;

constexpr int64_t kMixer = 4096;
constexpr size_t kExperts = 256, kDistinct = 32, kInner = 512;

/// A row is `size` or -size at one random column and zero elsewhere; block scales of 1/4 to 2.
OwnedWeight selecting_weight(int64_t n, int64_t k, float size, Rng& rng) {
  OwnedWeight out = random_weight(WeightFormat::nvfp4, n, k, Magnitude::any, rng);
  std::fill(out.codes.begin(), out.codes.end(), uint8_t{0});
  for (uint8_t& scale : out.scales) scale = static_cast<uint8_t>(0x28 + (scale & 3) * 8);
  // The code that makes up for the scale: 4, 2, 1, 0.5.
  constexpr uint8_t kCodes[] = {6, 4, 2, 1};
  for (int64_t row = 0; row < n; ++row) {
    const int64_t column = row * k + static_cast<int64_t>(rng.bits() % static_cast<uint64_t>(k));
    const uint8_t scale = out.scales[static_cast<size_t>(column / 16)];
    const int code = kCodes[(scale - 0x28) / 8] | (rng.bits() % 2 == 0 ? 0 : 8);
    out.codes[static_cast<size_t>(column / 2)] =
        static_cast<uint8_t>(column % 2 == 0 ? code : code << 4);
  }
  out.view.weight_scale_2 = size;
  return out;
}

}  // namespace

OwnedWeight unit_weight(WeightFormat format, int64_t n, int64_t k, Rng& rng) {
  return random_weight(format, n, k, Magnitude::unit, rng);
}

// Members are drawn in the order in which they are declared.
AttentionLayer::AttentionLayer(WeightFormat format, Rng& rng)
    : q_(unit_weight(format, 2 * kMixer, kHidden, rng)),
      k_(unit_weight(format, kKvElements, kHidden, rng)),
      v_(unit_weight(format, kKvElements, kHidden, rng)),
      o_(unit_weight(format, kHidden, kMixer, rng)),
      norm_(random_values(kHidden, 0.2f, rng)),
      q_norm_(random_values(256, 0.2f, rng)),
      k_norm_(random_values(256, 0.2f, rng)) {}

device::AttentionWeights AttentionLayer::put(Buffers& buffers) const {
  device::AttentionWeights w;
  w.num_heads = 16, w.num_kv_heads = 2, w.head_dim = 256;
  w.input_norm = buffers.put(norm_);
  w.q_norm = buffers.put(q_norm_);
  w.k_norm = buffers.put(k_norm_);
  w.q_proj = buffers.pack(q_);
  w.k_proj = buffers.pack(k_);
  w.v_proj = buffers.pack(v_);
  w.o_proj = buffers.pack(o_);
  return w;
}

DeltaNetLayer::DeltaNetLayer(WeightFormat format, Rng& rng)
    : qkv_(unit_weight(format, kChannels, kHidden, rng)),
      z_(unit_weight(format, kMixer, kHidden, rng)),
      b_(unit_weight(WeightFormat::bf16, 32, kHidden, rng)),
      a_(unit_weight(WeightFormat::bf16, 32, kHidden, rng)),
      out_(unit_weight(format, kHidden, kMixer, rng)),
      input_norm_(random_values(kHidden, 0.2f, rng)),
      conv_(random_values(kChannels * 4, 0.5f, rng)),
      a_log_(random_values(32, 1.0f, rng)),
      dt_bias_(random_values(32, 1.0f, rng)),
      norm_(random_values(128, 1.0f, rng)) {}

device::DeltaNetWeights DeltaNetLayer::put(Buffers& buffers) const {
  device::DeltaNetWeights w;
  w.num_key_heads = 16, w.num_value_heads = 32, w.key_head_dim = w.value_head_dim = 128;
  w.conv_kernel = 4;
  w.input_norm = buffers.put(input_norm_);
  w.in_proj_qkv = buffers.pack(qkv_);
  w.in_proj_z = buffers.pack(z_);
  w.in_proj_b = buffers.pack(b_);
  w.in_proj_a = buffers.pack(a_);
  w.out_proj = buffers.pack(out_);
  w.conv = buffers.put(conv_);
  w.a_log = buffers.put(a_log_);
  w.dt_bias = buffers.put(dt_bias_);
  w.norm = buffers.put(norm_);
  return w;
}

ExpertsLayer::ExpertsLayer(Rng& rng) {
  for (size_t e = 0; e < kDistinct; ++e) {
    gates_.push_back(unit_weight(WeightFormat::nvfp4, kInner, kHidden, rng));
    ups_.push_back(unit_weight(WeightFormat::nvfp4, kInner, kHidden, rng));
    downs_.push_back(unit_weight(WeightFormat::nvfp4, kHidden, kInner, rng));
  }
  router_ = unit_weight(WeightFormat::bf16, kExperts, kHidden, rng);
  shared_gate_ = unit_weight(WeightFormat::bf16, 1, kHidden, rng);
  norm_ = random_values(kHidden, 0.2f, rng);
}

ExpertsLayer ExpertsLayer::fp8_exact(Rng& rng) {
  ExpertsLayer out;
  for (size_t e = 0; e < kDistinct; ++e) {
    out.gates_.push_back(selecting_weight(kInner, kHidden, 128.0f, rng));
    out.ups_.push_back(selecting_weight(kInner, kHidden, 0.25f, rng));
    out.downs_.push_back(unit_weight(WeightFormat::nvfp4, kHidden, kInner, rng));
    for (uint8_t& scale : out.downs_.back().scales) scale = uint8_t(0x28 + (scale & 3) * 8);
  }
  out.router_ = unit_weight(WeightFormat::bf16, kExperts, kHidden, rng);
  out.shared_gate_ = unit_weight(WeightFormat::bf16, 1, kHidden, rng);
  for (int64_t i = 0; i < kHidden; ++i) {
    const float factors[] = {-0.5f, 0.0f, 1.0f};  // 1 + w is a power of two
    out.norm_.push_back(factors[rng.bits() % 3]);
  }
  out.spread_ = 0.0f;
  return out;
}

std::vector<float> fp8_exact_residual(int64_t rows, Rng& rng) {
  std::vector<float> out;
  for (int64_t r = 0; r < rows; ++r) {
    std::vector<float> row(static_cast<size_t>(kHidden), 1.0f);
    std::fill_n(row.begin(), kHidden * 5 / 16, 0.5f);
    std::fill_n(row.rbegin(), kHidden * 3 / 16, 1.5f);
    for (size_t i = row.size(); i > 1; --i) std::swap(row[i - 1], row[rng.bits() % i]);
    for (const float value : row) out.push_back(rng.bits() % 2 == 0 ? value : -value);
  }
  return out;
}

device::MoeWeights ExpertsLayer::put(device::Device& device, Buffers& buffers) const {
  device::MoeWeights w;
  w.num_experts = kExperts, w.num_experts_per_tok = kChosen;
  w.post_norm = buffers.put(norm_);
  // The router and the shared expert's gate lie behind each other, as in a loaded model.
  const size_t router_bytes = device.packed_linear_bytes(WeightFormat::bf16, kExperts, kHidden);
  std::byte* both =
      buffers.take(router_bytes + device.packed_linear_bytes(WeightFormat::bf16, 1, kHidden));
  w.router = buffers.pack(router_, both);
  w.shared_expert_gate = buffers.pack(shared_gate_, both + router_bytes);
  std::tie(w.gate_up, w.down) = banks(device, buffers, kExperts);
  std::tie(w.shared_gate_up, w.shared_down) = banks(device, buffers, 1);
  return w;
}

std::pair<device::PackedExperts, device::PackedExperts> ExpertsLayer::banks(device::Device& device,
                                                                            Buffers& buffers,
                                                                            size_t experts) const {
  constexpr auto kFormat = WeightFormat::nvfp4;
  const size_t up_stride = device.packed_gate_up_bytes(kFormat, kInner, kHidden);
  const size_t down_stride = device.packed_linear_bytes(kFormat, kHidden, kInner);
  std::byte* up_bank = buffers.take(experts * up_stride);
  std::byte* down_bank = buffers.take(experts * down_stride);
  std::vector<float> up_scales, down_scales;
  for (size_t e = 0; e < experts; ++e) {
    const OwnedWeight& gate = gates_[e % kDistinct];
    const OwnedWeight& up = ups_[(5 * e + e / kDistinct) % kDistinct];
    const OwnedWeight& down = downs_[(11 * e + 3 + e / kDistinct) % kDistinct];
    device.pack_gate_up(gate.view, up.view, up_bank + e * up_stride);
    (void)device.pack_linear(down.view, down_bank + e * down_stride);
    const float own = 1.0f + spread_ * (static_cast<float>(e) / kExperts - 0.5f);
    up_scales.insert(up_scales.end(),
                     {gate.view.weight_scale_2 * own, up.view.weight_scale_2 * (2.0f - own)});
    down_scales.push_back(down.view.weight_scale_2 * own);
  }
  const auto count = static_cast<int64_t>(experts);
  return {{kFormat, count, 2 * kInner, kHidden, up_bank, up_stride, buffers.put(up_scales)},
          {kFormat, count, kHidden, kInner, down_bank, down_stride, buffers.put(down_scales)}};
}

}  // namespace nibble::selftest
