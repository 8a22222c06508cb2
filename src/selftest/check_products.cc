// Dense and grouped matrix products.
#include "formats/linear_weight.h"
#include "kernels/reference/decode_matrix.h"
#include "kernels/reference/linear.h"
#include "selftest/expert_bank.h"
#include "selftest/random_data.h"
#include "selftest/runner.h"

#include <algorithm>
#include <cmath>

namespace nibble::selftest {
namespace {

using device::Accumulate;
using device::Device;
using formats::WeightFormat;

struct LinearCase {
  WeightFormat format;
  int64_t n, k;
};

constexpr LinearCase kLinearCases[] = {
    {WeightFormat::bf16, 512, 2048},  {WeightFormat::bf16, 257, 4096},
    {WeightFormat::bf16, 331, 48},    {WeightFormat::bf16, 1, 2048},
    {WeightFormat::fp8, 512, 2048},   {WeightFormat::fp8, 331, 80},
    {WeightFormat::nvfp4, 512, 2048}, {WeightFormat::nvfp4, 256, 512},
    {WeightFormat::nvfp4, 331, 80},   {WeightFormat::nvfp4, 64, 48}};

/// out += x W^T for the first m rows, then the largest error over its bound: |y - exact| <=
/// (k + 8) * 2^-23 * (sum |x w| + |before|). Tensor cores may truncate where they add.
double worst_of_bound(Device& device, const OwnedWeight& weight, const std::vector<float>& x,
                      const std::vector<float>& before, std::span<const reference::Sum> wanted) {
  const int64_t n = weight.view.out_features, k = weight.view.in_features;
  const auto m = static_cast<int64_t>(wanted.size()) / n;
  const std::vector<float> rows(x.begin(), x.begin() + m * k);
  const std::vector<float> start(before.begin(), before.begin() + m * n);
  Buffers buffers(device);
  const TensorView input = buffers.tensor(device.activation_dtype(), {m, k}, rows);
  const TensorView out = buffers.tensor(DType::f32, {m, n}, start);
  device.linear(input, buffers.pack(weight), out, Accumulate::add);
  const std::vector<float> found = buffers.get(out);
  double worst = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    if (!std::isfinite(found[i])) return INFINITY;
    const double bound =
        static_cast<double>(k + 8) * 0x1p-23 * (wanted[i].magnitude + std::abs(double{start[i]}));
    worst =
        std::max(worst, std::abs(double{found[i]} - wanted[i].value - double{start[i]}) / bound);
  }
  return worst;
}

struct ExpertCase {
  WeightFormat format;
  int64_t hidden, inner, rows;
};

void check_bank(Runner& runner, const ExpertCase& c) {
  constexpr int64_t kChosen = 8;
  device::WorkspaceSpec spec = model_workspace(512);
  spec.hidden_size = c.hidden;
  spec.moe_intermediate_size = spec.shared_intermediate_size = c.inner;
  spec.num_experts = ExpertBank::kExperts;
  runner.set_workspace(spec);
  Rng rng(static_cast<uint64_t>(c.hidden + c.inner * 3 + c.rows * 17));
  const ExpertBank bank(c.format, c.hidden, c.inner, rng);
  const std::vector<float> x = random_values(c.rows * c.hidden, 0.05f, rng);
  const std::vector<float> logits = random_values(c.rows * ExpertBank::kExperts, 2.0f, rng);
  const std::string name = std::string(formats::weight_format_name(c.format)) + " " +
                           std::to_string(c.hidden) + "x" + std::to_string(c.inner) +
                           " m=" + std::to_string(c.rows);
  const double limit = runner.is_exact() ? kBf16Limit : kF32Limit;
  runner.compare(name, [&](Device& device) {
    Buffers buffers(device);
    const DType act = device.activation_dtype();
    const TensorView input = buffers.tensor(act, {c.rows, c.hidden}, x);
    const TensorView router = buffers.tensor(DType::f32, {c.rows, ExpertBank::kExperts}, logits);
    const TensorView experts = buffers.tensor(DType::i32, {c.rows, kChosen});
    const TensorView weights = buffers.tensor(DType::f32, {c.rows, kChosen});
    const TensorView slots = buffers.tensor(act, {c.rows * kChosen, c.inner});
    const TensorView out = buffers.tensor(DType::f32, {c.rows, c.hidden});
    device.moe_route(router, nullptr, experts, weights);
    device.moe_gate_up(device::StepPlan(), input, bank.gate_up(device, buffers), experts, slots);
    device.moe_down_combine(device::StepPlan(), slots, bank.down(device, buffers), experts, weights,
                            out);
    return std::vector<Part>{{"experts", buffers.get(experts), kEqual},
                             {"weights", buffers.get(weights), 1e-6},
                             {"slots", buffers.get(slots), limit},
                             {"out", buffers.get(out), limit}};
  });
}

}  // namespace

void check_linear(Runner& runner) {
  const std::vector<int64_t> row_counts = runner.is_exact()
                                              ? std::vector<int64_t>{1, 3, 8, 9, 17, 32, 33, 65}
                                              : std::vector<int64_t>{1, 5};
  const int64_t most = row_counts.back();
  for (const LinearCase& c : kLinearCases) {
    Rng rng(static_cast<uint64_t>(c.n * 131 + c.k * 7));
    const OwnedWeight weight = random_weight(c.format, c.n, c.k, Magnitude::any, rng);
    const std::vector<float> x = random_values(most * c.k, 1.0f, rng);
    const std::vector<float> before = random_values(most * c.n, 1.0f, rng);
    const std::vector<reference::Sum> wanted =
        reference::linear(std::vector<double>(x.begin(), x.end()), most,
                          reference::decode_matrix(weight.view, reference::Decoding::real));
    for (const int64_t m : row_counts) {
      const auto rows = std::span(wanted).first(static_cast<size_t>(m * c.n));
      for (Device* device : runner.devices()) {
        runner.judge(*device,
                     std::string(formats::weight_format_name(c.format)) + " " +
                         std::to_string(c.n) + "x" + std::to_string(c.k) +
                         " m=" + std::to_string(m) + " of the bound",
                     worst_of_bound(*device, weight, x, before, rows), 1.0);
      }
    }
  }
}

void check_experts(Runner& runner) {
  for (const int64_t rows : {1, 5}) {
    check_bank(runner, {WeightFormat::nvfp4, 2048, 512, rows});
    check_bank(runner, {WeightFormat::nvfp4, 256, 64, rows});
    check_bank(runner, {WeightFormat::nvfp4, 48, 80, rows});
    check_bank(runner, {WeightFormat::bf16, 256, 64, rows});
    check_bank(runner, {WeightFormat::fp8, 256, 64, rows});
  }
  check_bank(runner, {WeightFormat::nvfp4, 2048, 512, 40});
  if (runner.is_exact()) check_bank(runner, {WeightFormat::nvfp4, 256, 64, 300});
}

}  // namespace nibble::selftest
