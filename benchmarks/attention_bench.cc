// Attention kernels at the shapes of the 35B model: 16 query heads, 2 KV heads of 256.
//
// One thread, every level this machine has. Prefill: 512 new tokens behind a given depth; GFLOP/s
// counts the causal products only. Decode: one token; GB/s counts the bytes of keys and values.
#include "base/cpu_features.h"
#include "base/rng.h"
#include "kernels/cpu/operation_table.h"

#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

namespace {

using nibble::cpu::Element;

constexpr int64_t kHeads = 16, kKvHeads = 2, kHeadDim = 256;

struct Setup {
  Setup(Element type_in, int64_t q_len_in, int64_t kv_len_in)
      : type(type_in), q_len(q_len_in), kv_len(kv_len_in) {
    const int64_t num_pages = (kv_len + 63) / 64;
    const auto elements = static_cast<size_t>(num_pages * 64 * kKvHeads * kHeadDim);
    k.resize(elements * bytes());
    v.resize(elements * bytes());
    fill(k);
    fill(v);
    for (int64_t i = 0; i < num_pages; ++i) pages.push_back(static_cast<int32_t>(i));
    q.resize(static_cast<size_t>(q_len * kHeads * kHeadDim));
    for (size_t i = 0; i < q.size(); ++i) {
      q[i] = static_cast<float>(2 * nibble::random_unit(1, i) - 1);
    }
    core.resize(q.size());
    scratch.resize(nibble::cpu::attention_scratch_floats(kHeads, kKvHeads, kHeadDim) + 16);
  }

  size_t bytes() const { return type == Element::f32 ? 4 : type == Element::bf16 ? 2 : 1; }

  /// Values in [0.5, 1) whatever the type.
  void fill(std::vector<std::byte>& pool) const {
    for (size_t i = 0; i < pool.size() / bytes(); ++i) {
      const auto bits = static_cast<uint32_t>(nibble::random_bits(2, i));
      const uint32_t f32 = 0x3F000000u | (bits & 0x7FFFFFu);
      const auto bf16 = static_cast<uint16_t>(f32 >> 16);
      const auto f8 = static_cast<uint8_t>(0x30u | (bits & 7u));
      const void* source = type == Element::f32    ? static_cast<const void*>(&f32)
                           : type == Element::bf16 ? static_cast<const void*>(&bf16)
                                                   : &f8;
      std::memcpy(pool.data() + i * bytes(), source, bytes());
    }
  }

  void run(const nibble::cpu::OperationKernels& level) {
    const nibble::cpu::AttentionArgs args{q.data(), core.data(), k.data(),     v.data(), type,
                                          1.0f,     1.0f,        pages.data(), 0,        q_len,
                                          kv_len,   kHeads,      kKvHeads,     kHeadDim};
    auto address = reinterpret_cast<uintptr_t>(scratch.data());
    auto* aligned = reinterpret_cast<float*>((address + 63) / 64 * 64);
    for (int64_t i = 0; i < nibble::cpu::attention_items(q_len, kHeads, kKvHeads); ++i) {
      level.attention.attention(args, i, aligned);
    }
  }

  Element type;
  int64_t q_len, kv_len;
  std::vector<std::byte> k, v;
  std::vector<int32_t> pages;
  std::vector<float> q, core, scratch;
};

void attention(benchmark::State& state) {
  const auto& level = nibble::cpu::operation_kernels(static_cast<int>(state.range(0)));
  const int64_t q_len = state.range(2), kv_len = state.range(3);
  Setup setup(static_cast<Element>(state.range(1)), q_len, kv_len);
  for (auto _ : state) setup.run(level);
  const double keys = static_cast<double>(q_len) *
                      (static_cast<double>(kv_len - q_len) + 0.5 * static_cast<double>(q_len + 1));
  const auto runs = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] =
      benchmark::Counter(runs * keys * 4 * kHeads * kHeadDim / 1e9, benchmark::Counter::kIsRate);
  state.counters["GB/s"] =
      benchmark::Counter(runs * static_cast<double>(setup.k.size() + setup.v.size()) / 1e9,
                         benchmark::Counter::kIsRate);
  state.SetLabel(level.level);
}

}  // namespace

int main(int argc, char** argv) {
  auto* bench = benchmark::RegisterBenchmark("attention", attention);
  bench->ArgNames({"level", "type", "q", "kv"})->Unit(benchmark::kMicrosecond);
  const int highest = static_cast<int>(nibble::detect_isa_level());
  for (int level = 0; level <= highest && level <= 2; ++level) {
    for (int type = 0; type < 3; ++type) bench->Args({level, type, 1, 4096});
    bench->Args({level, 1, 512, 512});
    bench->Args({level, 1, 512, 4608});
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
