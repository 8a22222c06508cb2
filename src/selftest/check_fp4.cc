// Large steps under Activations::nvfp4: products and experts of NVFP4 weights against the rounded
// operands in double. Shapes in units run the W4A4 kernels, others the same values in BF16.
#include "formats/e2m1.h"
#include "formats/e4m3.h"
#include "kernels/reference/decode_matrix.h"
#include "kernels/reference/linear.h"
#include "selftest/expert_bank.h"
#include "selftest/fp8_rounding.h"
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
using reference::Sum;

/// What kernels/cuda/w4a4.h says a row of k values becomes.
void round_row(float* row, int64_t k) {
  const float of_row = row_scale(row, k, 6.0 * 448.0);
  for (float* block = row; block != row + k; block += 16) {
    const double wanted = largest_magnitude(block, 16) / (6.0 * of_row);
    const float scale =
        formats::e4m3_to_f32(formats::e4m3_from_f32_saturating(static_cast<float>(wanted))) *
        of_row;
    for (int i = 0; i < 16; ++i) {
      const uint8_t code = scale == 0 ? uint8_t{0} : formats::e2m1_from_f32(block[i] / scale);
      block[i] = formats::e2m1_to_f32(code) * scale;
    }
  }
}

std::vector<double> rounded_rows(std::vector<float> x, int64_t k) {
  for (size_t first = 0; first < x.size(); first += static_cast<size_t>(k)) {
    round_row(x.data() + first, k);
  }
  return {x.begin(), x.end()};
}

/// Values of every kind: a row of zeros, tiny and huge rows, blocks far below their row's largest.
std::vector<float> rows_of_every_kind(int64_t rows, int64_t k, float scale, Rng& rng) {
  std::vector<float> x = random_values(rows * k, scale, rng);
  std::fill(x.begin(), x.begin() + k, 0.0f);
  for (int64_t i = 0; i < k && rows > 1; ++i) {
    x[static_cast<size_t>(k + i)] *= i / 16 % 3 == 0 ? 0x1p-40f : i / 16 % 3 == 1 ? 1.0f : 0x1p-8f;
  }
  return x;
}

/// f32 sums of `terms` products; tensor cores may truncate where they add.
double sum_bound(int64_t terms, double magnitude) {
  return static_cast<double>(terms + 8) * 0x1p-23 * magnitude;
}

struct ProductCase {
  WeightFormat format;
  int64_t n, k;
};

void check_product(Runner& runner, const ProductCase& c, int64_t m) {
  Rng rng(static_cast<uint64_t>(c.n * 131 + c.k * 7 + m));
  const OwnedWeight weight = random_weight(c.format, c.n, c.k, Magnitude::any, rng);
  const std::vector<float> x = rows_of_every_kind(m, c.k, 1.0f, rng);
  const std::vector<float> before = random_values(m * c.n, 1.0f, rng);
  const bool rounds = c.format == WeightFormat::nvfp4;
  const std::vector<Sum> wanted =
      reference::linear(rounds ? rounded_rows(x, c.k) : std::vector<double>(x.begin(), x.end()), m,
                        reference::decode_matrix(weight.view, reference::Decoding::real));
  for (Device* device : runner.devices()) {
    Buffers buffers(*device);
    const TensorView input = buffers.tensor(DType::bf16, {m, c.k}, x);
    const TensorView out = buffers.tensor(DType::f32, {m, c.n}, before);
    device->project(plan_of(m, 1), input, buffers.pack(weight), out, Accumulate::add);
    const std::vector<float> found = buffers.get(out);
    double worst = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double bound = sum_bound(c.k, wanted[i].magnitude + std::abs(double{before[i]}));
      const double error = std::abs(double{found[i]} - wanted[i].value - double{before[i]});
      worst = std::max(worst, std::isfinite(found[i]) ? error / bound : INFINITY);
    }
    runner.judge(*device,
                 std::string(formats::weight_format_name(c.format)) + " " + std::to_string(c.n) +
                     "x" + std::to_string(c.k) + " m=" + std::to_string(m) + " of the bound",
                 worst, 1.0);
  }
}

struct BankCase {
  int64_t hidden, inner, rows;
};

/// gate_up from random rows and down from random slots, each against its rounded inputs.
void check_bank(Runner& runner, const BankCase& c) {
  constexpr int64_t kChosen = 8;
  Rng rng(static_cast<uint64_t>(c.hidden + c.inner * 3 + c.rows * 17));
  const ExpertBank bank(WeightFormat::nvfp4, c.hidden, c.inner, rng);
  const std::vector<float> x = rows_of_every_kind(c.rows, c.hidden, 0.05f, rng);
  const std::vector<float> acts = rows_of_every_kind(c.rows * kChosen, c.inner, 0.05f, rng);
  const std::vector<float> logits = random_values(c.rows * ExpertBank::kExperts, 2.0f, rng);
  const std::vector<double> x_rounded = rounded_rows(x, c.hidden);
  const std::vector<double> acts_rounded = rounded_rows(acts, c.inner);
  const auto matrix = [](const OwnedWeight& weight) {
    return reference::decode_matrix(weight.view, reference::Decoding::real);
  };
  const auto row_of = [](const std::vector<double>& rows, size_t row, int64_t k) {
    const auto from = rows.begin() + static_cast<int64_t>(row) * k;
    return std::vector<double>(from, from + k);
  };
  const std::string name = "experts " + std::to_string(c.hidden) + "x" + std::to_string(c.inner) +
                           " m=" + std::to_string(c.rows);
  for (Device* device : runner.devices()) {
    Buffers buffers(*device);
    const device::StepPlan plan = plan_of(c.rows, 1);
    const TensorView input = buffers.tensor(DType::bf16, {c.rows, c.hidden}, x);
    const TensorView router = buffers.tensor(DType::f32, {c.rows, ExpertBank::kExperts}, logits);
    const TensorView experts = buffers.tensor(DType::i32, {c.rows, kChosen});
    const TensorView weights = buffers.tensor(DType::f32, {c.rows, kChosen});
    const TensorView slots = buffers.tensor(DType::bf16, {c.rows * kChosen, c.inner});
    const TensorView given = buffers.tensor(DType::bf16, {c.rows * kChosen, c.inner}, acts);
    const TensorView out = buffers.tensor(DType::f32, {c.rows, c.hidden});
    device->moe_route(router, nullptr, experts, weights);
    device->moe_gate_up(plan, input, bank.gate_up(*device, buffers), experts, slots);
    device->moe_down_combine(plan, given, bank.down(*device, buffers), experts, weights, out);
    const std::vector<float> chosen = buffers.get(experts), share = buffers.get(weights);
    const std::vector<float> found = buffers.get(slots), sums = buffers.get(out);
    std::vector<Sum> down(sums.size());
    double worst_slot = 0, worst_out = 0;
    for (size_t pair = 0; pair < chosen.size(); ++pair) {
      const auto e = static_cast<size_t>(chosen[pair]), row = pair / kChosen;
      const std::vector<double> in = row_of(x_rounded, row, c.hidden);
      const std::vector<Sum> gate = reference::linear(in, 1, matrix(bank.gates[e]));
      const std::vector<Sum> up = reference::linear(in, 1, matrix(bank.ups[e]));
      for (size_t i = 0; i < gate.size(); ++i) {
        const double activated = gate[i].value / (1.0 + std::exp(-gate[i].value));
        const double wanted = activated * up[i].value;
        const double bound =  // one rounding to BF16, sums, and an exp of 2 ulp
            0x1p-8 * std::abs(wanted) + 0x1p-126 +
            2 * sum_bound(c.hidden, 1.1 * gate[i].magnitude * std::abs(up[i].value) +
                                        up[i].magnitude * std::abs(activated));
        const size_t at = pair * gate.size() + i;
        worst_slot = std::max(worst_slot, std::abs(double{found[at]} - wanted) / bound);
      }
      const std::vector<Sum> y =
          reference::linear(row_of(acts_rounded, pair, c.inner), 1, matrix(bank.downs[e]));
      for (size_t i = 0; i < y.size(); ++i) {
        down[row * y.size() + i].value += double{share[pair]} * y[i].value;
        down[row * y.size() + i].magnitude += double{share[pair]} * y[i].magnitude;
      }
    }
    for (size_t i = 0; i < sums.size(); ++i) {
      const double bound = sum_bound(c.inner + kChosen, down[i].magnitude) + 0x1p-126;
      worst_out = std::max(worst_out, std::abs(double{sums[i]} - down[i].value) / bound);
    }
    runner.judge(*device, name + " slots, of the bound", worst_slot, 1.0);
    runner.judge(*device, name + " out, of the bound", worst_out, 1.0);
  }
}

}  // namespace

void check_fp4(Runner& runner) {
  for (const int64_t m : {2, 65, 200}) {
    check_product(runner, {WeightFormat::nvfp4, 512, 2048}, m);
    check_product(runner, {WeightFormat::nvfp4, 272, 256}, m);
    check_product(runner, {WeightFormat::nvfp4, 331, 80}, m);
    check_product(runner, {WeightFormat::nvfp4, 64, 48}, m);
    check_product(runner, {WeightFormat::bf16, 64, 256}, m);
    check_product(runner, {WeightFormat::fp8, 64, 256}, m);
  }
  check_bank(runner, {2048, 512, 5});
  check_bank(runner, {256, 256, 40});
  check_bank(runner, {256, 64, 5});
  check_bank(runner, {48, 80, 5});
}

}  // namespace nibble::selftest
