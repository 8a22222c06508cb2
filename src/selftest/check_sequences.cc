// Small operations that walk sequences: attention over pages, convolution, delta rule.
#include "selftest/random_data.h"
#include "selftest/runner.h"
#include "selftest/steps.h"

namespace nibble::selftest {
namespace {

using device::Device;

constexpr int64_t kHeads = 16, kKvHeads = 2, kDim = 256;

void compare_attention(Runner& runner, const StepCase& c, DType kv) {
  Rng rng(99);
  const int64_t rows = rows_of(c);
  const KvValues cache_values(kv, cached_tokens(c), kKvHeads * kDim, rng);
  const std::vector<float> q_norm = random_values(kDim, 0.2f, rng);
  const std::vector<float> k_norm = random_values(kDim, 0.2f, rng);
  const std::vector<float> q_gate_values = random_values(rows * 2 * kHeads * kDim, 1.0f, rng);
  const std::vector<float> k_values = random_values(rows * kKvHeads * kDim, 1.0f, rng);
  const std::vector<float> v_values = random_values(rows * kKvHeads * kDim, 1.0f, rng);
  // exact: BF16 operands are allowed (q, P), and a stored key may round the other way.
  const bool f32 = !runner.is_exact() && kv == DType::f32;
  runner.compare(c.name + " " + dtype_name(kv), [&](Device& device) {
    Buffers buffers(device);
    const device::StepPlan plan = make_plan(c, buffers);
    device::AttentionWeights weights;
    weights.num_heads = kHeads, weights.num_kv_heads = kKvHeads, weights.head_dim = kDim;
    weights.q_norm = buffers.put(q_norm);
    weights.k_norm = buffers.put(k_norm);
    const device::KvLayer cache = cache_values.put(buffers);
    const auto tensor = [&](int64_t columns, const std::vector<float>& values) {
      return buffers.tensor(DType::f32, {rows, columns}, values);
    };
    const TensorView q_gate = tensor(2 * kHeads * kDim, q_gate_values);
    const TensorView k = tensor(kKvHeads * kDim, k_values);
    const TensorView v = tensor(kKvHeads * kDim, v_values);
    const TensorView q = buffers.tensor(DType::f32, {rows, kHeads * kDim});
    const TensorView gate = buffers.tensor(DType::f32, {rows, kHeads * kDim});
    const TensorView core = buffers.tensor(DType::f32, {rows, kHeads * kDim});
    device.qk_norm_rope(plan, weights, q_gate, q, gate, k);
    device.kv_store(plan, weights, cache, k, v);
    device.attention(plan, weights, cache, q, core);
    return std::vector<Part>{{"q", buffers.get(q), kF32Limit},
                             {"k", buffers.get(k), kF32Limit},
                             {"gate", buffers.get(gate), kEqual},
                             {"core", buffers.get(core), f32 ? kF32Limit : kBf16Limit}};
  });
}

void compare_delta(Runner& runner, const StepCase& c, int64_t dim, const StateValues& states) {
  constexpr int64_t kKeyHeads = 16, kValueHeads = 32, kKernel = 4;
  const int64_t channels = (2 * kKeyHeads + kValueHeads) * dim, rows = rows_of(c);
  Rng rng(7);
  const std::vector<float> conv = random_values(channels * kKernel, 0.5f, rng);
  const std::vector<float> a_log = random_values(kValueHeads, 1.0f, rng);
  const std::vector<float> dt_bias = random_values(kValueHeads, 1.0f, rng);
  const std::vector<float> norm = random_values(dim, 0.2f, rng);
  const std::vector<float> x_values = random_values(rows * channels, 1.0f, rng);
  const std::vector<float> a_values = random_values(rows * kValueHeads, 1.0f, rng);
  const std::vector<float> b_values = random_values(rows * kValueHeads, 1.0f, rng);
  const std::vector<float> z_values = random_values(rows * kValueHeads * dim, 1.0f, rng);
  runner.compare(c.name + " " + std::to_string(dim), [&](Device& device) {
    Buffers buffers(device);
    const device::StepPlan plan = make_plan(c, buffers);
    device::DeltaNetWeights weights;
    weights.num_key_heads = kKeyHeads, weights.num_value_heads = kValueHeads;
    weights.key_head_dim = weights.value_head_dim = dim;
    weights.conv_kernel = kKernel;
    weights.conv = buffers.put(conv);
    weights.a_log = buffers.put(a_log);
    weights.dt_bias = buffers.put(dt_bias);
    weights.norm = buffers.put(norm);
    const DType act = device.activation_dtype();
    const States cache = put_states(states, kKernel - 1, act, buffers);
    const TensorView x = buffers.tensor(act, {rows, channels}, x_values);
    const TensorView a = buffers.tensor(DType::f32, {rows, kValueHeads}, a_values);
    const TensorView b = buffers.tensor(DType::f32, {rows, kValueHeads}, b_values);
    const TensorView z = buffers.tensor(DType::f32, {rows, kValueHeads * dim}, z_values);
    const TensorView qkv = buffers.tensor(DType::f32, {rows, channels});
    const TensorView core = buffers.tensor(DType::f32, {rows, kValueHeads * dim});
    const TensorView normed = buffers.tensor(act, {rows, kValueHeads * dim});
    device.short_conv(plan, weights, cache.layer, x, qkv);
    device.delta_gates(weights, a, b);
    device.gated_delta(plan, weights, cache.layer, qkv, a, b, core);
    device.gated_rms_norm(weights, core, z, normed);
    // core and state: sums over keys, then over up to 200 tokens.
    return std::vector<Part>{
        {"conv", buffers.get(qkv), kF32Limit},
        {"g", buffers.get(a), kF32Limit},
        {"beta", buffers.get(b), kF32Limit},
        {"core", buffers.get(core), 2 * kF32Limit},
        {"normed", buffers.get(normed), runner.is_exact() ? kBf16Limit : 2 * kF32Limit},
        {"state", buffers.get(cache.recurrent), 2 * kF32Limit},
        {"window", buffers.get(cache.window), kEqual}};
  });
}

}  // namespace

void check_attention(Runner& runner) {
  for (const StepCase& c : step_cases()) {
    for (const DType kv : {DType::f32, DType::bf16, DType::f8_e4m3}) {
      compare_attention(runner, c, kv);
    }
  }
}

void check_delta(Runner& runner) {
  constexpr int64_t kModelDim = 128, kOddDim = 24;
  Rng rng(5);
  for (const int64_t dim : {kModelDim, kOddDim}) {
    const StateValues states(32 * dim * dim, 3 * 64 * dim, rng);
    for (const StepCase& c : step_cases()) compare_delta(runner, c, dim, states);
  }
}

}  // namespace nibble::selftest
