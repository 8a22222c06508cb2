// The block operations of the 35B-A3B shapes, without an Observer: where a device has fused kernels
// they run. Against the composed blocks of the double reference.
//
// Limits: every rounding to BF16 of which the two sides may make a different one counts 2^-9 of the
// part's norm. attention: norm, q, P, gated. DeltaNet: norm, convolution input, gated norm, parts
// of the chunked operands. Experts: norm, slots, outputs of large steps. The state: convolution
// input.
#include "formats/linear_weight.h"
#include "selftest/random_data.h"
#include "selftest/runner.h"
#include "selftest/steps.h"

#include <tuple>
#include <utility>

namespace nibble::selftest {
namespace {

using device::Accumulate;
using device::Device;
using formats::WeightFormat;

constexpr int64_t kHidden = 2048, kMixer = 4096;
constexpr double kAttentionLimit = 4 * kBf16Ulp, kStoredLimit = 0x1p-8, kDeltaLimit = 3 * kBf16Ulp,
                 kExpertsLimit = 3 * kBf16Ulp;

OwnedWeight unit_weight(WeightFormat format, int64_t n, int64_t k, Rng& rng) {
  return random_weight(format, n, k, Magnitude::unit, rng);
}

std::string case_name(const StepCase& c, WeightFormat format) {
  return c.name + " " + formats::weight_format_name(format);
}

/// Runs `block` on a copy of the residual and returns what it added.
template <typename Block>
Part added(const Block& block, const std::vector<float>& residual, double limit, Buffers& buffers) {
  const auto rows = static_cast<int64_t>(residual.size()) / kHidden;
  const TensorView hidden = buffers.tensor(DType::f32, {rows, kHidden}, residual);
  block(hidden);
  std::vector<float> out = buffers.get(hidden);
  for (size_t i = 0; i < out.size(); ++i) out[i] -= residual[i];
  return {"out", std::move(out), limit};
}

void attention_blocks(Runner& runner, WeightFormat format, DType kv) {
  Rng rng(31);
  const OwnedWeight q = unit_weight(format, 2 * kMixer, kHidden, rng);
  const OwnedWeight k = unit_weight(format, 512, kHidden, rng);
  const OwnedWeight v = unit_weight(format, 512, kHidden, rng);
  const OwnedWeight o = unit_weight(format, kHidden, kMixer, rng);
  const std::vector<float> norm = random_values(kHidden, 0.2f, rng);
  const std::vector<float> q_norm = random_values(256, 0.2f, rng);
  const std::vector<float> k_norm = random_values(256, 0.2f, rng);
  const double limit = kAttentionLimit + (kv == DType::f8_e4m3 ? kStoredLimit : 0.0);
  for (const StepCase& c : step_cases()) {
    const std::vector<float> residual = random_values(rows_of(c) * kHidden, 1.0f, rng);
    const KvValues cache(kv, cached_tokens(c), 512, rng);
    runner.compare(case_name(c, format) + " kv " + dtype_name(kv), [&](Device& device) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(c, buffers);
      device::AttentionWeights w;
      w.num_heads = 16, w.num_kv_heads = 2, w.head_dim = 256;
      w.input_norm = buffers.put(norm);
      w.q_norm = buffers.put(q_norm);
      w.k_norm = buffers.put(k_norm);
      w.q_proj = buffers.pack(q);
      w.k_proj = buffers.pack(k);
      w.v_proj = buffers.pack(v);
      w.o_proj = buffers.pack(o);
      const device::KvLayer layer = cache.put(buffers);
      const auto block = [&](TensorView hidden) {
        device.attention_block(plan, w, layer, hidden, hidden, Accumulate::add);
      };
      // One stored key that rounds to the other FP8 code moves it by 2^-4, few do.
      return std::vector<Part>{added(block, residual, limit, buffers),
                               {"keys", buffers.get(cache.keys(layer)), kBf16Ulp}};
    });
  }
}

void delta_net_blocks(Runner& runner, WeightFormat format) {
  constexpr int64_t kChannels = 8192;
  Rng rng(32);
  const OwnedWeight qkv = unit_weight(format, kChannels, kHidden, rng);
  const OwnedWeight z = unit_weight(format, kMixer, kHidden, rng);
  const OwnedWeight b = unit_weight(WeightFormat::bf16, 32, kHidden, rng);
  const OwnedWeight a = unit_weight(WeightFormat::bf16, 32, kHidden, rng);
  const OwnedWeight out = unit_weight(format, kHidden, kMixer, rng);
  const std::vector<float> input_norm = random_values(kHidden, 0.2f, rng);
  const std::vector<float> conv = random_values(kChannels * 4, 0.5f, rng);
  const std::vector<float> a_log = random_values(32, 1.0f, rng);
  const std::vector<float> dt_bias = random_values(32, 1.0f, rng);
  const std::vector<float> norm = random_values(128, 1.0f, rng);
  const StateValues states(32 * 128 * 128, 3 * kChannels, rng);
  for (const StepCase& c : step_cases()) {
    const std::vector<float> residual = random_values(rows_of(c) * kHidden, 1.0f, rng);
    runner.compare(case_name(c, format), [&](Device& device) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(c, buffers);
      device::DeltaNetWeights w;
      w.num_key_heads = 16, w.num_value_heads = 32, w.key_head_dim = w.value_head_dim = 128;
      w.conv_kernel = 4;
      w.input_norm = buffers.put(input_norm);
      w.in_proj_qkv = buffers.pack(qkv);
      w.in_proj_z = buffers.pack(z);
      w.in_proj_b = buffers.pack(b);
      w.in_proj_a = buffers.pack(a);
      w.out_proj = buffers.pack(out);
      w.conv = buffers.put(conv);
      w.a_log = buffers.put(a_log);
      w.dt_bias = buffers.put(dt_bias);
      w.norm = buffers.put(norm);
      const States cache = put_states(states, 3, device.activation_dtype(), buffers);
      const auto block = [&](TensorView hidden) {
        device.delta_net_block(plan, w, cache.layer, hidden, hidden, Accumulate::add);
      };
      return std::vector<Part>{added(block, residual, kDeltaLimit, buffers),
                               {"state", buffers.get(cache.recurrent), kBf16Ulp},
                               {"window", buffers.get(cache.window), kBf16Ulp}};
    });
  }
}

/// 256 experts made of 32 random ones in other combinations, each with scales of its own.
class ModelExperts {
 public:
  static constexpr size_t kExperts = 256, kDistinct = 32, kInner = 512;

  explicit ModelExperts(Rng& rng) {
    for (size_t e = 0; e < kDistinct; ++e) {
      gates_.push_back(unit_weight(WeightFormat::nvfp4, kInner, kHidden, rng));
      ups_.push_back(unit_weight(WeightFormat::nvfp4, kInner, kHidden, rng));
      downs_.push_back(unit_weight(WeightFormat::nvfp4, kHidden, kInner, rng));
    }
  }
  void put(Device& device, Buffers& buffers, device::MoeWeights& w) const {
    std::tie(w.gate_up, w.down) = banks(device, buffers, kExperts);
    std::tie(w.shared_gate_up, w.shared_down) = banks(device, buffers, 1);
  }

 private:
  std::pair<device::PackedExperts, device::PackedExperts> banks(Device& device, Buffers& buffers,
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
      const float own = 0.75f + 0.5f * static_cast<float>(e) / kExperts;
      up_scales.insert(up_scales.end(),
                       {gate.view.weight_scale_2 * own, up.view.weight_scale_2 * (2.0f - own)});
      down_scales.push_back(down.view.weight_scale_2 * own);
    }
    const auto count = static_cast<int64_t>(experts);
    return {{kFormat, count, 2 * kInner, kHidden, up_bank, up_stride, buffers.put(up_scales)},
            {kFormat, count, kHidden, kInner, down_bank, down_stride, buffers.put(down_scales)}};
  }
  std::vector<OwnedWeight> gates_, ups_, downs_;
};

void expert_blocks(Runner& runner) {
  Rng rng(33);
  const ModelExperts experts(rng);
  const OwnedWeight router = unit_weight(WeightFormat::bf16, 256, kHidden, rng);
  const OwnedWeight gate = unit_weight(WeightFormat::bf16, 1, kHidden, rng);
  const std::vector<float> norm = random_values(kHidden, 0.2f, rng);
  const std::vector<StepCase> cases = step_cases();
  std::vector<std::vector<float>> residuals;
  for (const StepCase& c : cases) {
    residuals.push_back(random_values(rows_of(c) * kHidden, 1.0f, rng));
  }
  // Packed once a device: the bank is large.
  const auto body = [&](Device& device) {
    std::vector<Part> parts;
    Buffers weights(device);
    device::MoeWeights w;
    w.num_experts = 256, w.num_experts_per_tok = 8;
    w.post_norm = weights.put(norm);
    const size_t router_bytes = device.packed_linear_bytes(WeightFormat::bf16, 256, kHidden);
    std::byte* both =
        weights.take(router_bytes + device.packed_linear_bytes(WeightFormat::bf16, 1, kHidden));
    w.router = weights.pack(router, both);  // the two lie behind each other, as in a loaded model
    w.shared_expert_gate = weights.pack(gate, both + router_bytes);
    experts.put(device, weights, w);
    for (size_t i = 0; i < cases.size(); ++i) {
      Buffers buffers(device);
      const int64_t rows = rows_of(cases[i]);
      device::StepPlan plan = make_plan(cases[i], buffers);
      const TensorView log = buffers.tensor(DType::i32, {rows, 8});
      plan.routing_log = log.as<int32_t>();
      const auto block = [&](TensorView hidden) {
        device.moe_block(plan, w, hidden, hidden, Accumulate::add);
      };
      Part out = added(block, residuals[i], kExpertsLimit, buffers);
      out.name = cases[i].name + " " + out.name;
      parts.push_back(std::move(out));
      parts.push_back({cases[i].name + " experts", buffers.get(log), kEqual});
    }
    return parts;
  };
  runner.compare("NVFP4", body);
}

void heads(Runner& runner, WeightFormat format) {
  constexpr int64_t kVocab = 4096;
  Rng rng(34);
  const OwnedWeight lm_head = unit_weight(format, kVocab, kHidden, rng);
  const std::vector<float> norm = random_values(kHidden, 0.2f, rng);
  for (const StepCase& c : step_cases()) {
    const int64_t rows = rows_of(c);
    const auto wanted_rows = static_cast<int64_t>(c.sequences.size());
    const std::vector<float> residual = random_values(rows * kHidden, 1.0f, rng);
    runner.compare(case_name(c, format), [&](Device& device) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(c, buffers);
      const device::HeadWeights w{buffers.put(norm), buffers.pack(lm_head)};
      const TensorView hidden = buffers.tensor(DType::f32, {rows, kHidden}, residual);
      const TensorView logits = buffers.tensor(DType::f32, {wanted_rows, kVocab});
      device.head(plan, w, hidden, TensorView(), 0, logits);
      return std::vector<Part>{{"logits", buffers.get(logits), kBf16Ulp}};
    });
  }
}

}  // namespace

// f32 takes the composed blocks of the operations that are checked apart: nothing to do.
void check_attention_blocks(Runner& runner) {
  if (!runner.is_exact()) return;
  attention_blocks(runner, WeightFormat::bf16, DType::bf16);
  attention_blocks(runner, WeightFormat::bf16, DType::f8_e4m3);
  attention_blocks(runner, WeightFormat::fp8, DType::f8_e4m3);
}

void check_delta_blocks(Runner& runner) {
  if (!runner.is_exact()) return;
  delta_net_blocks(runner, WeightFormat::bf16);
  delta_net_blocks(runner, WeightFormat::fp8);
}

void check_expert_blocks(Runner& runner) {
  if (runner.is_exact()) expert_blocks(runner);
}

void check_heads(Runner& runner) {
  if (!runner.is_exact()) return;
  heads(runner, WeightFormat::bf16);
  heads(runner, WeightFormat::nvfp4);
}

}  // namespace nibble::selftest
