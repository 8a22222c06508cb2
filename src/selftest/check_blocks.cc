// The block operations of the 35B-A3B shapes, without an Observer: where a device has fused kernels
// they run. Against the composed blocks of the double reference.
//
// Limits: every rounding to BF16 of which the two sides may make a different one counts 2^-9 of the
// part's norm. attention: norm, q, P, gated. DeltaNet: norm, convolution input, gated norm, parts
// of the chunked operands. Experts: norm, slots, outputs of large steps. The state: convolution
// input.
#include "formats/linear_weight.h"
#include "selftest/model_layers.h"
#include "selftest/random_data.h"
#include "selftest/runner.h"
#include "selftest/steps.h"

#include <utility>

namespace nibble::selftest {
namespace {

using device::Accumulate;
using device::Device;
using formats::WeightFormat;

constexpr double kAttentionLimit = 4 * kBf16Ulp, kStoredLimit = 0x1p-8, kDeltaLimit = 3 * kBf16Ulp,
                 kExpertsLimit = 3 * kBf16Ulp;

std::string case_name(const StepCase& c, WeightFormat format) {
  return c.name + " " + formats::weight_format_name(format);
}

std::vector<float> random_residual(const StepCase& c, Rng& rng) {
  return random_values(rows_of(c) * kHidden, 1.0f, rng);
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
  const AttentionLayer attention(format, rng);
  const double limit = kAttentionLimit + (kv == DType::f8_e4m3 ? kStoredLimit : 0.0);
  for (const StepCase& c : step_cases()) {
    const std::vector<float> residual = random_residual(c, rng);
    const KvValues cache(kv, cached_tokens(c), AttentionLayer::kKvElements, rng);
    runner.compare(case_name(c, format) + " kv " + dtype_name(kv), [&](Device& device) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(c, buffers);
      const device::AttentionWeights weights = attention.put(buffers);
      const device::KvLayer layer = cache.put(buffers);
      const auto block = [&](TensorView hidden) {
        device.attention_block(plan, weights, layer, hidden, hidden, Accumulate::add);
      };
      // One stored key that rounds to the other FP8 code moves it by 2^-4, few do.
      return std::vector<Part>{added(block, residual, limit, buffers),
                               {"keys", buffers.get(cache.keys(layer)), kBf16Ulp}};
    });
  }
}

void delta_net_blocks(Runner& runner, WeightFormat format) {
  Rng rng(32);
  const DeltaNetLayer delta_net(format, rng);
  const StateValues states(DeltaNetLayer::kStateElements, 3 * DeltaNetLayer::kChannels, rng);
  for (const StepCase& c : step_cases()) {
    const std::vector<float> residual = random_residual(c, rng);
    runner.compare(case_name(c, format), [&](Device& device) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(c, buffers);
      const device::DeltaNetWeights weights = delta_net.put(buffers);
      const States cache = put_states(states, 3, device.activation_dtype(), buffers);
      const auto block = [&](TensorView hidden) {
        device.delta_net_block(plan, weights, cache.layer, hidden, hidden, Accumulate::add);
      };
      return std::vector<Part>{added(block, residual, kDeltaLimit, buffers),
                               {"state", buffers.get(cache.recurrent), kBf16Ulp},
                               {"window", buffers.get(cache.window), kBf16Ulp}};
    });
  }
}

void expert_blocks(Runner& runner) {
  Rng rng(33);
  const ExpertsLayer experts(rng);
  const std::vector<StepCase> cases = step_cases();
  std::vector<std::vector<float>> residuals;
  for (const StepCase& c : cases) residuals.push_back(random_residual(c, rng));
  // One body for all cases: the experts are packed once a device.
  runner.compare("NVFP4", [&](Device& device) {
    std::vector<Part> parts;
    Buffers packed(device);
    const device::MoeWeights weights = experts.put(device, packed);
    for (size_t i = 0; i < cases.size(); ++i) {
      Buffers buffers(device);
      device::StepPlan plan = make_plan(cases[i], buffers);
      const TensorView log = buffers.tensor(DType::i32, {rows_of(cases[i]), ExpertsLayer::kChosen});
      plan.routing_log = log.as<int32_t>();
      const auto block = [&](TensorView hidden) {
        device.moe_block(plan, weights, hidden, hidden, Accumulate::add);
      };
      Part out = added(block, residuals[i], kExpertsLimit, buffers);
      out.name = cases[i].name + " " + out.name;
      parts.push_back(std::move(out));
      parts.push_back({cases[i].name + " experts", buffers.get(log), kEqual});
    }
    return parts;
  });
}

void heads(Runner& runner, WeightFormat format) {
  constexpr int64_t kVocab = 4096;
  Rng rng(34);
  const OwnedWeight lm_head = unit_weight(format, kVocab, kHidden, rng);
  const std::vector<float> norm = random_values(kHidden, 0.2f, rng);
  for (const StepCase& c : step_cases()) {
    const auto wanted_rows = static_cast<int64_t>(c.sequences.size());
    const std::vector<float> residual = random_residual(c, rng);
    runner.compare(case_name(c, format), [&](Device& device) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(c, buffers);
      const device::HeadWeights w{buffers.put(norm), buffers.pack(lm_head)};
      const TensorView hidden = buffers.tensor(DType::f32, {rows_of(c), kHidden}, residual);
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
