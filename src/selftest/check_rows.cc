// Operations on rows, embedding with overrides, and sampling.
#include "device/host_sampler.h"
#include "selftest/random_data.h"
#include "selftest/runner.h"
#include "selftest/steps.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace nibble::selftest {
namespace {

using device::Accumulate;
using device::Device;

void check_embedding(Runner& runner) {
  constexpr int64_t kVocab = 4096, kHidden = 2048, kOverrides = 3;
  Rng rng(21);
  const StepCase c = step_cases()[2];
  const int64_t rows = rows_of(c);
  const std::vector<float> table = random_values(kVocab * kHidden, 1.0f, rng);
  const std::vector<float> instead = random_values(kOverrides * kHidden, 1.0f, rng);
  for (const bool overridden : {false, true}) {
    runner.compare(overridden ? "embed, overrides" : "embed", [&](Device& device) {
      Buffers buffers(device);
      device::StepPlan plan = make_plan(c, buffers);
      if (overridden) {
        std::vector<int32_t> index(static_cast<size_t>(rows), -1);
        index[1] = 2, index[3] = 0;
        plan.override_index = buffers.put(index);
        plan.row_overrides = buffers.tensor(DType::f32, {kOverrides, kHidden}, instead);
      }
      const TensorView hidden = buffers.tensor(DType::f32, {rows, kHidden});
      device.embed(plan, buffers.tensor(DType::bf16, {kVocab, kHidden}, table), hidden);
      return std::vector<Part>{{"rows", buffers.get(hidden), kEqual}};
    });
  }
}

void check_elementwise(Runner& runner, int64_t rows, int64_t n) {
  Rng rng(static_cast<uint64_t>(n));
  const std::vector<float> x_values = random_values(rows * n, 2.0f, rng);
  const std::vector<float> y_values = random_values(rows * n, 2.0f, rng);
  const std::vector<float> logit_values = random_values(rows, 2.0f, rng);
  const std::vector<float> weight = random_values(n, 0.2f, rng);
  std::vector<int32_t> picked;
  for (int64_t r = 0; r < rows; r += 2) picked.push_back(static_cast<int32_t>(rows - 1 - r));
  const double activation = runner.is_exact() ? kBf16Limit : kF32Limit;
  const std::string name = std::to_string(rows) + "x" + std::to_string(n);
  runner.compare(name, [&](Device& device) {
    Buffers buffers(device);
    const auto f32 = [&](const std::vector<float>& values) {
      return buffers.tensor(DType::f32, {rows, n}, values);
    };
    const DType act = device.activation_dtype();
    const TensorView x = f32(x_values), y = f32(y_values), sum = f32(y_values);
    const TensorView shared = f32(y_values);
    const TensorView logit = buffers.tensor(DType::f32, {rows, 1}, logit_values);
    const TensorView normed = buffers.tensor(act, {rows, n});
    const TensorView gated = buffers.tensor(act, {rows, n});
    const auto count = static_cast<int64_t>(picked.size());
    const TensorView gathered = buffers.tensor(DType::f32, {count, n});
    device.rms_norm(x, buffers.put(weight), normed);
    device.sigmoid_gate(x, y, gated);
    device.add(x, sum, Accumulate::add);
    device.moe_add_shared(x, y, logit, shared, Accumulate::add);
    device.gather_rows(x, buffers.put(picked), gathered);
    return std::vector<Part>{{"rms_norm", buffers.get(normed), activation},
                             {"sigmoid_gate", buffers.get(gated), activation},
                             {"add", buffers.get(sum), kEqual},
                             {"moe_add_shared", buffers.get(shared), kF32Limit},
                             {"moe_add_shared gate", buffers.get(logit), kF32Limit},
                             {"gather_rows", buffers.get(gathered), kEqual}};
  });
}

/// Logprob of the largest logit below `limit`, in double.
double greedy_logprob(const float* logits, int64_t limit) {
  const double top = *std::max_element(logits, logits + limit);
  double sum = 0;
  for (int64_t i = 0; i < limit; ++i) sum += std::exp(logits[i] - top);
  return -std::log(sum);
}

}  // namespace

void check_rows(Runner& runner) {
  check_embedding(runner);
  for (const auto& [rows, n] : {std::pair(1, 2048), {33, 2048}, {5, 331}}) {
    check_elementwise(runner, rows, n);
  }
}

// Greedy tokens against the definition; drawn ones against the sampler on the host.
void check_sampling(Runner& runner) {
  constexpr int64_t kVocab = 248320;
  constexpr int32_t kLimit = 248077;
  for (const int64_t rows : {1, 5}) {
    Rng rng(77);
    std::vector<float> logits = random_values(rows * kVocab, 8.0f, rng);
    for (int64_t r = 0; r < rows; ++r) {  // a tie: the lower id wins; above the limit: no token
      for (const int64_t at : {100 * r + 1000, 100 * r + 90000}) {
        logits[static_cast<size_t>(r * kVocab + at)] = 9.0f;
      }
      logits[static_cast<size_t>(r * kVocab + kLimit)] = 20.0f;
    }
    for (const bool drawn : {false, true}) {
      std::vector<device::SampleRow> plan_rows(static_cast<size_t>(rows));
      for (size_t r = 0; r < plan_rows.size(); ++r) {
        plan_rows[r].logits_row = static_cast<int32_t>(r);
        plan_rows[r].seed = r + 3;
        plan_rows[r].temperature = drawn ? 0.8f : 0.0f;
        plan_rows[r].top_p = drawn ? 0.9f : 1.0f;
      }
      const device::SamplePlan plan{static_cast<int32_t>(rows), plan_rows.data(), kLimit};
      for (Device* device : runner.devices()) {
        Buffers buffers(*device);
        std::vector<device::SampleResult> found(static_cast<size_t>(rows));
        device->sample(plan, buffers.tensor(DType::f32, {rows, kVocab}, logits), found.data());
        device->synchronize();
        device::RowSampler oracle(kVocab);
        double wrong = 0, worst = 0;
        for (size_t r = 0; r < found.size(); ++r) {
          const float* row = logits.data() + static_cast<int64_t>(r) * kVocab;
          const auto greedy = static_cast<int32_t>(100 * r + 1000);
          const device::SampleResult wanted = oracle.sample_row(row, plan_rows[r], kLimit);
          wrong += found[r].token == (drawn ? wanted.token : greedy) ? 0 : 1;
          const double logprob = drawn ? wanted.logprob : greedy_logprob(row, kLimit);
          worst = std::max(worst, std::abs(found[r].logprob - logprob));
        }
        const std::string name =
            std::string(drawn ? "drawn" : "greedy") + " m=" + std::to_string(rows);
        runner.judge(*device, name + " tokens that differ", wrong, kEqual);
        runner.judge(*device, name + " logprob", worst, 1e-4);
      }
    }
  }
}

}  // namespace nibble::selftest
