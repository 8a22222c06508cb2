// Large steps under Activations::fp8: the roundings bit for bit, products and experts against the
// rounded operands in double, fused blocks against composed ones of the same device.
#include "device/observer.h"
#include "formats/bf16.h"
#include "selftest/expert_bank.h"
#include "selftest/fp8_rounding.h"
#include "selftest/model_layers.h"
#include "selftest/random_data.h"
#include "selftest/runner.h"
#include "selftest/steps.h"

#include <algorithm>
#include <cmath>

namespace nibble::selftest {
namespace {

using device::Accumulate;
using device::Device;
using formats::WeightFormat;

struct ProductCase {
  WeightFormat format;
  int64_t n, k;
};

std::string name_of(const ProductCase& c, int64_t m) {
  return std::string(formats::weight_format_name(c.format)) + " " + std::to_string(c.n) + "x" +
         std::to_string(c.k) + " m=" + std::to_string(m);
}

// ---------------------------------------------------------------- the row pass

/// Row i is 1 at column i % k: the product is the rounded input itself.
OwnedWeight selection(const ProductCase& c) {
  Rng rng(1);
  OwnedWeight out = random_weight(c.format, c.n, c.k, Magnitude::any, rng);
  std::fill(out.codes.begin(), out.codes.end(), uint8_t{0});
  for (int64_t i = 0; i < c.n; ++i) {
    const auto at = static_cast<size_t>(i * c.k + i % c.k);
    if (c.format == WeightFormat::bf16) {
      reinterpret_cast<uint16_t*>(out.codes.data())[at] = formats::bf16_from_f32(1.0f);
    } else {
      out.codes[at] = 0x38;
    }
  }
  out.view.weight_scale_2 = 1.0f;
  return out;
}

/// Rows of every kind: zeros, largest magnitudes at a power of two times 448 and right above, ties,
/// small values beside a large one, tiny rows.
std::vector<float> rows_of_every_kind(int64_t rows, int64_t k, Rng& rng) {
  std::vector<float> x = random_values(rows * k, 1.0f, rng);
  const auto row = [&](int64_t r) { return x.begin() + r * k; };
  std::fill(row(1), row(2), 0.0f);
  *row(2) = 448.0f, *row(3) = -450.0f, *row(4) = 9984.0f, *row(5) = 14.0f;
  for (int64_t i = 1; i < k; ++i) {
    row(6)[i] = static_cast<float>(i % 128 + 128) * 0x1p-7f;  // every second one a tie at scale 1
    row(7)[i] *= 0x1p-100f;
  }
  *row(6) = 256.0f, *row(7) = 0x1p-100f;
  return x;
}

void check_roundings(Runner& runner) {
  constexpr int64_t kRows = 40;
  const ProductCase cases[] = {{WeightFormat::bf16, 2048, 2048}, {WeightFormat::fp8, 4096, 4096},
                               {WeightFormat::bf16, 80, 80},     {WeightFormat::bf16, 331, 80},
                               {WeightFormat::fp8, 331, 48},     {WeightFormat::bf16, 100, 100},
                               {WeightFormat::bf16, 101, 101}};
  for (const ProductCase& c : cases) {
    Rng rng(static_cast<uint64_t>(c.n + c.k));
    const OwnedWeight weight = selection(c);
    const std::vector<float> x = rows_of_every_kind(kRows, c.k, rng);
    const std::vector<float> rounded = round_fp8_rows(x, c.k);
    std::vector<float> wanted, unrounded;
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t i = 0; i < c.n; ++i) {
        const auto at = static_cast<size_t>(r * c.k + i % c.k);
        wanted.push_back(rounded[at]);
        unrounded.push_back(x[at]);
      }
    }
    for (Device* device : runner.devices()) {
      Buffers buffers(*device);
      const TensorView input = buffers.tensor(DType::bf16, {kRows, c.k}, x);
      const TensorView out = buffers.tensor(DType::f32, {kRows, c.n});
      const device::PackedLinear packed = buffers.pack(weight);
      device->project(plan_of(kRows, kRows - 1), input, packed, out, Accumulate::replace);
      runner.judge(*device, "rows " + name_of(c, kRows), relative_l2(buffers.get(out), wanted),
                   kEqual);
      device->project(plan_of(kRows, kRows), input, packed, out, Accumulate::replace);
      runner.judge(*device, "rows of a decode step " + name_of(c, kRows),
                   relative_l2(buffers.get(out), unrounded), kEqual);
    }
  }
}

// ---------------------------------------------------------------- products

/// What the tensor cores may lose: an instruction of 32 k adds its products and the sum so far
/// with 13 bits below the largest of these 33, the rest is cut off.
double lost_bits(const double* x, const double* w, int64_t k) {
  double sum = 0, lost = 0;
  for (int64_t first = 0; first < k; first += 32) {
    double top = std::abs(sum);
    for (int64_t i = first; i < std::min(k, first + 32); ++i) {
      top = std::max(top, std::abs(x[i] * w[i]));
      sum += x[i] * w[i];
    }
    lost += 33 * 0x1p-13 * std::max(top, std::abs(sum));
  }
  return lost;
}

void check_product(Runner& runner, const ProductCase& c, int64_t m) {
  Rng rng(static_cast<uint64_t>(c.n * 131 + c.k * 7 + m));
  const OwnedWeight weight = random_weight(c.format, c.n, c.k, Magnitude::any, rng);
  const std::vector<float> x = random_values(m * c.k, 1.0f, rng);
  const std::vector<float> before = random_values(m * c.n, 1.0f, rng);
  const std::vector<float> rounded = round_fp8_rows(x, c.k);
  const std::vector<double> rows(rounded.begin(), rounded.end());
  const reference::Matrix matrix = fp8_matrix(weight);
  const std::vector<reference::Sum> wanted = reference::linear(rows, m, matrix);
  const bool on_tensor_cores = c.n % 16 == 0 && c.k % 16 == 0;
  for (Device* device : runner.devices()) {
    Buffers buffers(*device);
    const TensorView input = buffers.tensor(DType::bf16, {m, c.k}, x);
    const TensorView out = buffers.tensor(DType::f32, {m, c.n}, before);
    device->project(plan_of(m, 1), input, buffers.pack(weight), out, Accumulate::add);
    const std::vector<float> found = buffers.get(out);
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const auto row = static_cast<int64_t>(i) / c.n, column = static_cast<int64_t>(i) % c.n;
      double bound = static_cast<double>(c.k + 8) * 0x1p-23 *
                     (wanted[i].magnitude + std::abs(double{before[i]}));
      if (on_tensor_cores) {
        bound += lost_bits(rows.data() + row * c.k, matrix.values.data() + column * c.k, c.k);
      }
      const double error = std::abs(double{found[i]} - wanted[i].value - double{before[i]});
      worst = std::max(worst, std::isfinite(found[i]) ? error / bound : INFINITY);
    }
    runner.judge(*device, name_of(c, m) + " of the bound", worst, 1.0);
  }
}

// ---------------------------------------------------------------- experts

struct ExpertCase {
  WeightFormat format;
  int64_t hidden, inner, rows;
};

double silu(double x) {
  return x / (1.0 + std::exp(-x));
}

/// The largest error of `slots` over its bound: half a step of E4M3 and of BF16, a step of the
/// smallest numbers, and what f32 sums lose.
double worst_slot(const std::vector<float>& slots, const std::vector<reference::Sum>& gate,
                  const std::vector<reference::Sum>& up, int64_t hidden, int64_t inner) {
  const double of_sum = static_cast<double>(hidden + 8) * 0x1p-23;
  double worst = 0;
  for (size_t first = 0; first < slots.size(); first += static_cast<size_t>(inner)) {
    const float scale = row_scale(slots.data() + first, inner, kFp8Largest);
    for (size_t i = first; i < first + static_cast<size_t>(inner); ++i) {
      const double activated = silu(gate[i].value), wanted = activated * up[i].value;
      const double sums = of_sum * (1.1 * gate[i].magnitude * std::abs(up[i].value) +
                                    up[i].magnitude * std::abs(activated));
      const double bound = (0x1p-4 + 0x1p-8) * std::abs(wanted) + 0x1p-9 * double{scale} + 2 * sums;
      worst = std::max(worst, std::abs(double{slots[i]} - wanted) / bound);
    }
  }
  return worst;
}

void check_bank(Runner& runner, const ExpertCase& c) {
  constexpr int64_t kChosen = 8;
  Rng rng(static_cast<uint64_t>(c.hidden + c.inner * 3 + c.rows * 17));
  const ExpertBank bank(c.format, c.hidden, c.inner, rng);
  const std::vector<float> x = random_values(c.rows * c.hidden, 0.05f, rng);
  const std::vector<float> logits = random_values(c.rows * ExpertBank::kExperts, 2.0f, rng);
  const std::vector<float> rounded = round_fp8_rows(x, c.hidden);
  const std::string name = std::string("experts ") + formats::weight_format_name(c.format) + " " +
                           std::to_string(c.hidden) + "x" + std::to_string(c.inner);
  for (Device* device : runner.devices()) {
    Buffers buffers(*device);
    const device::StepPlan plan = plan_of(c.rows, 1);
    const TensorView input = buffers.tensor(DType::bf16, {c.rows, c.hidden}, x);
    const TensorView router = buffers.tensor(DType::f32, {c.rows, ExpertBank::kExperts}, logits);
    const TensorView experts = buffers.tensor(DType::i32, {c.rows, kChosen});
    const TensorView weights = buffers.tensor(DType::f32, {c.rows, kChosen});
    const TensorView slots = buffers.tensor(DType::bf16, {c.rows * kChosen, c.inner});
    const TensorView out = buffers.tensor(DType::f32, {c.rows, c.hidden});
    device->moe_route(router, nullptr, experts, weights);
    device->moe_gate_up(plan, input, bank.gate_up(*device, buffers), experts, slots);
    device->moe_down_combine(plan, slots, bank.down(*device, buffers), experts, weights, out);
    const std::vector<float> chosen = buffers.get(experts), share = buffers.get(weights);
    const std::vector<float> acts = buffers.get(slots), found = buffers.get(out);

    std::vector<reference::Sum> gate, up, down(found.size());
    for (size_t pair = 0; pair < chosen.size(); ++pair) {
      const auto e = static_cast<size_t>(chosen[pair]), row = pair / kChosen;
      const auto from = rounded.begin() + static_cast<int64_t>(row) * c.hidden;
      const std::vector<double> in(from, from + c.hidden);
      for (const reference::Sum& sum : reference::linear(in, 1, fp8_matrix(bank.gates[e]))) {
        gate.push_back(sum);
      }
      for (const reference::Sum& sum : reference::linear(in, 1, fp8_matrix(bank.ups[e]))) {
        up.push_back(sum);
      }
      const auto act = acts.begin() + static_cast<int64_t>(pair) * c.inner;
      const std::vector<reference::Sum> y =
          reference::linear(std::vector<double>(act, act + c.inner), 1, fp8_matrix(bank.downs[e]));
      for (size_t i = 0; i < y.size(); ++i) {
        reference::Sum& sum = down[row * static_cast<size_t>(c.hidden) + i];
        sum.value += double{share[pair]} * y[i].value;
        sum.magnitude += double{share[pair]} * y[i].magnitude;
      }
    }
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double bound = static_cast<double>(c.inner + kChosen + 8) * 0x1p-23 * down[i].magnitude;
      worst = std::max(worst, std::abs(double{found[i]} - down[i].value) / bound);
    }
    runner.judge(*device, name + " slots are E4M3",
                 relative_l2(acts, round_fp8_rows(acts, c.inner)), kEqual);
    runner.judge(*device, name + " slots, of the bound",
                 worst_slot(acts, gate, up, c.hidden, c.inner), 1.0);
    runner.judge(*device, name + " out, of the bound", worst, 1.0);
  }
}

// ---------------------------------------------------------------- fused blocks

/// Makes a device take its composed blocks.
class Nobody final : public device::Observer {
 public:
  void observe(int /*layer*/, std::string_view /*name*/, ConstTensorView /*tensor*/) override {}
};

/// A value known to `limit` that is rounded to E4M3 (steps of at most 2^-3) falls to the other side
/// with a chance of limit / step, and is then a step away.
double after_rounding(double limit) {
  return std::sqrt(limit * 0x1p-3);
}

template <typename Body>
void compare_fused(Runner& runner, const std::string& name, const Body& body) {
  for (Device* device : runner.devices()) {
    Nobody nobody;
    const std::vector<Part> wanted = body(*device, &nobody), found = body(*device, nullptr);
    for (size_t i = 0; i < wanted.size(); ++i) {
      runner.judge(*device, name + " " + wanted[i].name,
                   relative_l2(found[i].values, wanted[i].values), wanted[i].limit);
    }
  }
}

/// What `block` adds to the residual.
template <typename Block>
std::vector<float> added(const Block& block, const std::vector<float>& residual, Buffers& buffers) {
  const auto rows = static_cast<int64_t>(residual.size()) / kHidden;
  const TensorView hidden = buffers.tensor(DType::f32, {rows, kHidden}, residual);
  block(hidden);
  std::vector<float> out = buffers.get(hidden);
  for (size_t i = 0; i < out.size(); ++i) out[i] -= residual[i];
  return out;
}

std::vector<StepCase> large_steps() {
  std::vector<StepCase> cases = step_cases();
  std::erase_if(cases, [](const StepCase& c) {
    return rows_of(c) == static_cast<int32_t>(c.sequences.size());
  });
  return cases;
}

// Both sides round the same norms (f32 sums in another order aside). Attention: q, P and gated are
// rounded to BF16 before o_proj's inputs are to E4M3. DeltaNet: convolution input, chunked
// operands, gated norm. Experts: the tensor cores' sums and slots before the slots are rounded to
// E4M3, outputs.
constexpr double kAttentionLimit = 3 * kBf16Ulp, kDeltaLimit = 3 * kBf16Ulp,
                 kExpertsLimit = 3 * kBf16Ulp;

void compare_attention(Runner& runner, WeightFormat format) {
  Rng rng(31);
  const AttentionLayer attention(format, rng);
  for (const StepCase& c : large_steps()) {
    const std::vector<float> residual = random_values(rows_of(c) * kHidden, 1.0f, rng);
    const KvValues cache(DType::bf16, cached_tokens(c), AttentionLayer::kKvElements, rng);
    const auto body = [&](Device& device, device::Observer* observer) {
      Buffers buffers(device);
      device::StepPlan plan = make_plan(c, buffers);
      plan.observer = observer;
      const device::AttentionWeights weights = attention.put(buffers);
      const device::KvLayer layer = cache.put(buffers);
      const auto block = [&](TensorView hidden) {
        device.attention_block(plan, weights, layer, hidden, hidden, Accumulate::add);
      };
      return std::vector<Part>{
          {"out", added(block, residual, buffers), after_rounding(kAttentionLimit)},
          {"keys", buffers.get(cache.keys(layer)), kBf16Ulp}};
    };
    compare_fused(runner, "attention " + c.name + " " + formats::weight_format_name(format), body);
  }
}

void compare_delta(Runner& runner, WeightFormat format) {
  Rng rng(32);
  const DeltaNetLayer delta_net(format, rng);
  const StateValues states(DeltaNetLayer::kStateElements, 3 * DeltaNetLayer::kChannels, rng);
  for (const StepCase& c : large_steps()) {
    const std::vector<float> residual = random_values(rows_of(c) * kHidden, 1.0f, rng);
    const auto body = [&](Device& device, device::Observer* observer) {
      Buffers buffers(device);
      device::StepPlan plan = make_plan(c, buffers);
      plan.observer = observer;
      const device::DeltaNetWeights weights = delta_net.put(buffers);
      const States cache = put_states(states, 3, device.activation_dtype(), buffers);
      const auto block = [&](TensorView hidden) {
        device.delta_net_block(plan, weights, cache.layer, hidden, hidden, Accumulate::add);
      };
      return std::vector<Part>{
          {"out", added(block, residual, buffers), after_rounding(kDeltaLimit)},
          {"state", buffers.get(cache.recurrent), kBf16Ulp},
          {"window", buffers.get(cache.window), kBf16Ulp}};
    };
    compare_fused(runner, "DeltaNet " + c.name + " " + formats::weight_format_name(format), body);
  }
}

void compare_experts(Runner& runner) {
  Rng rng(33);
  const ExpertsLayer experts(rng);
  const std::vector<StepCase> cases = large_steps();
  std::vector<std::vector<float>> residuals;
  for (const StepCase& c : cases) {
    residuals.push_back(random_values(rows_of(c) * kHidden, 1.0f, rng));
  }
  compare_fused(runner, "experts", [&](Device& device, device::Observer* observer) {
    std::vector<Part> parts;
    Buffers packed(device);
    const device::MoeWeights weights = experts.put(device, packed);
    for (size_t i = 0; i < cases.size(); ++i) {
      Buffers buffers(device);
      device::StepPlan plan = make_plan(cases[i], buffers);
      plan.observer = observer;
      const auto block = [&](TensorView hidden) {
        device.moe_block(plan, weights, hidden, hidden, Accumulate::add);
      };
      parts.push_back({cases[i].name + " out", added(block, residuals[i], buffers),
                       after_rounding(kExpertsLimit)});
    }
    return parts;
  });
}

/// A layer and rows on which no rounding to E4M3 changes anything, against the reference at
/// `exact`: one rounding of the outputs to BF16, and 16 instructions a sum that each cut off what
/// is below 2^-13 of their largest term.
void check_exact_experts(Runner& runner) {
  Rng rng(34);
  const ExpertsLayer experts = ExpertsLayer::fp8_exact(rng);
  const std::vector<StepCase> cases = large_steps();
  std::vector<std::vector<float>> residuals;
  for (const StepCase& c : cases) residuals.push_back(fp8_exact_residual(rows_of(c), rng));
  runner.compare("experts, nothing to round:", [&](Device& device) {
    std::vector<Part> parts;
    Buffers packed(device);
    const device::MoeWeights weights = experts.put(device, packed);
    for (size_t i = 0; i < cases.size(); ++i) {
      Buffers buffers(device);
      const device::StepPlan plan = make_plan(cases[i], buffers);
      const auto block = [&](TensorView hidden) {
        device.moe_block(plan, weights, hidden, hidden, Accumulate::add);
      };
      parts.push_back({cases[i].name + " out", added(block, residuals[i], buffers),
                       kBf16Ulp + std::sqrt(16.0) * 0x1p-13});
    }
    return parts;
  });
}

}  // namespace

void check_fp8(Runner& runner) {
  device::WorkspaceSpec spec = model_workspace(512);
  spec.vocab_size = 4096;
  runner.set_workspace(spec);
  check_roundings(runner);
  for (const int64_t m : {2, 65}) {
    check_product(runner, {WeightFormat::bf16, 512, 2048}, m);
    check_product(runner, {WeightFormat::fp8, 512, 2048}, m);
    check_product(runner, {WeightFormat::nvfp4, 512, 2048}, m);
    check_product(runner, {WeightFormat::bf16, 2048, 4096}, m);
    check_product(runner, {WeightFormat::nvfp4, 64, 48}, m);
    check_product(runner, {WeightFormat::bf16, 331, 48}, m);
    check_product(runner, {WeightFormat::fp8, 331, 80}, m);
    check_product(runner, {WeightFormat::nvfp4, 331, 80}, m);
  }
  check_bank(runner, {WeightFormat::nvfp4, 256, 64, 5});
  check_bank(runner, {WeightFormat::nvfp4, 48, 80, 5});
  check_bank(runner, {WeightFormat::fp8, 256, 64, 5});
  compare_attention(runner, WeightFormat::bf16);
  compare_attention(runner, WeightFormat::fp8);
  compare_delta(runner, WeightFormat::bf16);
  compare_delta(runner, WeightFormat::fp8);
  compare_experts(runner);
  check_exact_experts(runner);
}

}  // namespace nibble::selftest
