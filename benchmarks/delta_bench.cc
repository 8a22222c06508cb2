// Delta rule and its neighbours at the shapes of the 35B model: 16 key heads, 32 value heads of
// 128, 8192 convolution channels. One thread, every level this machine has.
#include "base/cpu_features.h"
#include "base/rng.h"
#include "kernels/cpu/operation_table.h"

#include <benchmark/benchmark.h>

#include <vector>

namespace {

using nibble::cpu::Element;

constexpr int64_t kKeyHeads = 16, kValueHeads = 32, kDim = 128;
constexpr int64_t kChannels = (2 * kKeyHeads + kValueHeads) * kDim;

std::vector<float> random_floats(int64_t count, uint64_t seed) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(2 * nibble::random_unit(seed, i) - 1);
  }
  return values;
}

const nibble::cpu::OperationKernels& level_of(benchmark::State& state) {
  const auto& level = nibble::cpu::operation_kernels(static_cast<int>(state.range(0)));
  state.SetLabel(level.level);
  return level;
}

/// range(1): 0 recurrent, 1 chunked; range(2): tokens.
void gated_delta(benchmark::State& state) {
  const auto& level = level_of(state);
  const int64_t tokens = state.range(2);
  const auto qkv = random_floats(tokens * kChannels, 1);
  auto g = random_floats(tokens * kValueHeads, 2), beta = random_floats(tokens * kValueHeads, 3);
  for (float& value : g) value = -0.1f * (value + 1);
  for (float& value : beta) value = 0.5f * (value + 1);
  std::vector<float> core(static_cast<size_t>(tokens * kValueHeads * kDim));
  std::vector<float> states(static_cast<size_t>(kValueHeads * kDim * kDim));
  std::vector<float> scratch(nibble::cpu::delta_scratch_floats(kDim, kDim) + 16);
  const auto address = reinterpret_cast<uintptr_t>(scratch.data());
  auto* aligned = reinterpret_cast<float*>((address + 63) / 64 * 64);
  nibble::cpu::GatedDeltaArgs args{};
  args.qkv = qkv.data();
  args.g = g.data();
  args.beta = beta.data();
  args.core = core.data();
  args.q_len = tokens;
  args.num_key_heads = kKeyHeads;
  args.num_value_heads = kValueHeads;
  args.key_head_dim = kDim;
  args.value_head_dim = kDim;
  args.state_in = states.data();
  args.state_out = states.data();
  const bool is_chunked = state.range(1) == 1;
  const int64_t items = is_chunked ? nibble::cpu::delta_chunked_items(kKeyHeads)
                                   : nibble::cpu::delta_recurrent_items(kValueHeads, kDim);
  const auto run = is_chunked ? level.delta.gated_delta_chunked : level.delta.gated_delta_recurrent;
  for (auto _ : state) {
    for (int64_t item = 0; item < items; ++item) run(args, item, aligned);
  }
  // The products of the chunked form (delta_chunked.inl), triangles counted as triangles.
  const double per_token = 6.0 * kDim * kDim + 2.0 * 64 * kDim + 2.0 * 64 * kDim;
  state.counters["GFLOP/s"] = benchmark::Counter(
      static_cast<double>(state.iterations() * tokens * kValueHeads) * per_token / 1e9,
      benchmark::Counter::kIsRate);
}

void short_conv(benchmark::State& state) {
  const auto& level = level_of(state);
  const int64_t tokens = state.range(1);
  const auto weight = random_floats(kChannels * 4, 4);
  std::vector<uint16_t> x(static_cast<size_t>(tokens * kChannels), 0x3F80);
  std::vector<uint16_t> window(static_cast<size_t>(3 * kChannels), 0x3F80);
  std::vector<float> out(x.size());
  nibble::cpu::ShortConvArgs args{};
  args.x = x.data();
  args.out = out.data();
  args.type = Element::bf16;
  args.weight = weight.data();
  args.channels = kChannels;
  args.kernel = 4;
  args.columns = 3;
  args.window_in = window.data();
  args.window_out = window.data();
  args.q_len = tokens;
  for (auto _ : state) {
    for (int64_t i = 0; i < nibble::cpu::short_conv_items(kChannels); ++i) {
      level.conv.short_conv(args, i);
    }
  }
}

void gated_rms_norm(benchmark::State& state) {
  const auto& level = level_of(state);
  const int64_t tokens = state.range(1);
  const auto core = random_floats(tokens * kValueHeads * kDim, 5);
  const auto weight = random_floats(kDim, 6);
  std::vector<uint16_t> out(core.size());
  const nibble::cpu::GatedRmsNormArgs args{core.data(),   core.data(), weight.data(), out.data(),
                                           Element::bf16, kValueHeads, kDim,          1e-6f};
  for (auto _ : state) level.norm.gated_rms_norm(args, 0, tokens);
}

void rms_norm(benchmark::State& state) {
  const auto& level = level_of(state);
  const int64_t tokens = state.range(1);
  const auto x = random_floats(tokens * 2048, 7), weight = random_floats(2048, 8);
  std::vector<uint16_t> out(x.size());
  for (auto _ : state) {
    level.norm.rms_norm({x.data(), weight.data(), out.data(), Element::bf16, 2048, 1e-6f}, 0,
                        tokens);
  }
}

void moe_route(benchmark::State& state) {
  const auto& level = level_of(state);
  const int64_t tokens = state.range(1);
  const auto logits = random_floats(tokens * 256, 9);
  std::vector<int32_t> experts(static_cast<size_t>(tokens * 8));
  std::vector<float> weights(experts.size());
  for (auto _ : state) {
    level.route.moe_route({logits.data(), nullptr, experts.data(), weights.data(), 256, 8}, 0,
                          tokens);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int highest = static_cast<int>(nibble::detect_isa_level());
  for (int level = 0; level <= highest && level <= 2; ++level) {
    benchmark::RegisterBenchmark("gated_delta", gated_delta)
        ->ArgNames({"level", "chunked", "tokens"})
        ->Args({level, 0, 1})
        ->Args({level, 0, 64})
        ->Args({level, 1, 8})
        ->Args({level, 1, 64})
        ->Args({level, 1, 512})
        ->Unit(benchmark::kMicrosecond);
    const auto add = [&](const char* name, void (*function)(benchmark::State&)) {
      benchmark::RegisterBenchmark(name, function)
          ->ArgNames({"level", "tokens"})
          ->Args({level, 1})
          ->Args({level, 512})
          ->Unit(benchmark::kMicrosecond);
    };
    add("short_conv", short_conv);
    add("gated_rms_norm", gated_rms_norm);
    add("rms_norm", rms_norm);
    add("moe_route", moe_route);
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
