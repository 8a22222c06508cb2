// Matrix products of the CPU kernels, one thread: GMAC/s, weight bytes moved, share of read
// bandwidth.
//
// Versions, and what each taught. AMD Zen 5 at 4.2 GHz, K 2048, CPU time of one thread on a shared
// machine, November 2026. Peak of vdpbf16ps 270 GMAC/s, read bandwidth of one thread 40 GB/s.
//   1 naive: one output at a time, row-major BF16 weights, plain loop (kept below). 1.4 GMAC/s
//   2 f32 panels: 16 rows a panel, decoded to f32 in L1, then FMA: the scalar, avx2 and avx512
//     levels. 25, 61, 113 GMAC/s at 512 rows. (Lanes as a struct of 16 floats spilled: 5 in scalar)
//   3 pair products from the packed panel, 2 panels * 12 rows in registers: BF16 239; NVFP4 with
//     one chain of 8 products per row and block: 190 at 16 rows
//   4 as 3, NVFP4 chains of 8 rows interleaved, so that waiting products do not fill the scheduler:
//     215 at 16 rows
//   5 as 4, weights prefetched a page ahead (the hardware's prefetch ends with the page): 256
//     experts at 16 rows 138 -> 190 GMAC/s, NVFP4 decode from memory 28 -> 40 GB/s
#include "base/check.h"
#include "base/cpu_features.h"
#include "base/rng.h"
#include "formats/bf16.h"
#include "kernels/cpu/linear/linear_plan.h"
#include "kernels/cpu/linear/packed_weights.h"
#include "kernels/cpu/moe/moe_plan.h"
#include "tensor/tensor.h"

#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

namespace nibble::cpu {
namespace {

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Zeroed memory of large pages where the system has them, as the device's weight arena asks for.
class WeightArena {
 public:
  explicit WeightArena(size_t size) : size_(size) {
    void* memory =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    NIBBLE_CHECK(memory != MAP_FAILED, "no memory for weights", size);
    (void)::madvise(memory, size, MADV_HUGEPAGE);  // a hint: small pages work too
    data_ = static_cast<unsigned char*>(memory);
  }
  ~WeightArena() { ::munmap(data_, size_); }
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;
  unsigned char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  unsigned char* data_ = nullptr;
  size_t size_;
};

/// GB/s of one thread reading 1 GiB, best of five; measured once.
double read_bandwidth() {
  static const double measured = [] {
    const WeightArena buffer(size_t{1} << 30);
    std::memset(buffer.data(), 1, buffer.size());
    const auto* words = reinterpret_cast<const uint64_t*>(buffer.data());
    const size_t count = buffer.size() / sizeof(uint64_t);
    double best = 0;
    for (int repeat = 0; repeat < 5; ++repeat) {
      const double start = seconds();
      uint64_t sums[8] = {};
      for (size_t i = 0; i + 8 <= count; i += 8) {
        for (size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
      }
      benchmark::DoNotOptimize(sums);
      best = std::max(best, static_cast<double>(buffer.size()) / (seconds() - start) * 1e-9);
    }
    return best;
  }();
  return measured;
}

void report(benchmark::State& state, double macs, double bytes) {
  using benchmark::Counter;
  state.counters["GMAC/s"] = Counter(macs * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsIterationInvariantRate);
  state.counters["of_read_bw"] =
      Counter(bytes * 1e-9 / read_bandwidth(), Counter::kIsIterationInvariantRate);
  state.counters["MB"] = Counter(bytes * 1e-6);
}

/// Packed weights with random codes and moderate scales; the layout's meaning does not matter here.
void fill_panels(const WeightArena& buffer, PanelFormat format) {
  auto* words = reinterpret_cast<uint32_t*>(buffer.data());
  for (size_t i = 0; i < buffer.size() / 4; ++i) {
    const auto bits = static_cast<uint32_t>(random_bits(1, i % 4096));
    // BF16 of about 2^-7 .. 2^-6; E4M3 codes and scales below NaN; NVFP4 codes of any kind.
    words[i] =
        format == PanelFormat::bf16 ? 0x3C003C00u | (bits & 0x807F807Fu) : bits & 0xBFBFBFBFu;
  }
}

/// Rows of moderate numbers in both element types.
struct Rows {
  explicit Rows(int64_t count) : f32(static_cast<size_t>(count)), bf16(static_cast<size_t>(count)) {
    for (size_t i = 0; i < f32.size(); ++i) {
      f32[i] = static_cast<float>(random_unit(2, i) - 0.5);
      bf16[i] = formats::bf16_from_f32(f32[i]);
    }
  }
  const void* data(LinearArithmetic arithmetic) const {
    return arithmetic == LinearArithmetic::f32 ? static_cast<const void*>(f32.data())
                                               : static_cast<const void*>(bf16.data());
  }
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
};

struct Problem {
  PanelFormat format;
  LinearArithmetic arithmetic;
  int64_t m, n, k;
};

void dense(benchmark::State& state, const LinearKernels* kernels, Problem problem) {
  const WeightArena weights(packed_linear_bytes(problem.format, problem.n, problem.k));
  fill_panels(weights, problem.format);
  const Rows rows(problem.m * problem.k);
  std::vector<float> y(static_cast<size_t>(problem.m * problem.n));
  const LinearPlan plan =
      plan_linear(*kernels, problem.arithmetic, problem.format, problem.m, problem.n, problem.k, 1);
  const AlignedBytes packed(std::max<size_t>(plan.packed_bytes, 64));
  LinearArgs args{.x = rows.data(problem.arithmetic),
                  .x_stride = problem.k,
                  .x_packed = plan.pack_tasks == 0 ? rows.data(problem.arithmetic) : packed.data(),
                  .y = y.data(),
                  .y_stride = problem.n,
                  .y_type = Element::f32,
                  .accumulate = false,
                  .weights = weights.data(),
                  .format = problem.format,
                  .arithmetic = problem.arithmetic,
                  .m = problem.m,
                  .n = problem.n,
                  .k = problem.k,
                  .tensor_scale = 1.0f};
  for (auto iteration : state) {
    (void)iteration;
    for (int64_t t = 0; t < plan.pack_tasks; ++t) {
      kernels->pack_rows(args, packed.data(), pack_task_begin(plan, t),
                         pack_task_begin(plan, t + 1));
    }
    for (int64_t t = 0; t < plan.tasks; ++t) kernels->linear(args, linear_task(plan, t));
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(problem.m * problem.n * problem.k),
         static_cast<double>(weights.size()));
}

/// Version 1: row-major BF16 weights, one output at a time.
void naive(benchmark::State& state, int64_t m, int64_t n, int64_t k) {
  const Rows x(m * k), w(n * k);
  std::vector<float> y(static_cast<size_t>(m * n));
  for (auto iteration : state) {
    (void)iteration;
    for (int64_t row = 0; row < m; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        const uint16_t* a = x.bf16.data() + row * k;
        const uint16_t* b = w.bf16.data() + column * k;
        float sum = 0;
        for (int64_t i = 0; i < k; ++i) {
          sum += formats::bf16_to_f32(a[i]) * formats::bf16_to_f32(b[i]);
        }
        y[static_cast<size_t>(row * n + column)] = sum;
      }
    }
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(m * n * k), static_cast<double>(n * k * 2));
}

enum class Half { gate_up, down };

/// One half of the routed experts of a step, 256 experts, 8 a row, H 2048, I 512; uniform routing.
void experts(benchmark::State& state, int level, PanelFormat format, int64_t row_count, Half half) {
  const MoeShape shape{.max_rows = row_count,
                       .num_experts = 256,
                       .slots_per_row = 8,
                       .hidden = 2048,
                       .intermediate = 512,
                       .threads = 2};
  const MoeKernels& kernels = moe_kernels(level);
  const bool is_gate_up = half == Half::gate_up;
  const auto stride = static_cast<int64_t>(is_gate_up ? packed_gate_up_bytes(format, 512, 2048)
                                                      : packed_linear_bytes(format, 2048, 512));
  const WeightArena weights(static_cast<size_t>(stride * shape.num_experts));
  fill_panels(weights, format);
  const int64_t slots = row_count * shape.slots_per_row;
  std::vector<int32_t> choice(static_cast<size_t>(slots));
  for (int64_t i = 0; i < slots; ++i) {
    // Eight different experts of a row: one in each eighth.
    choice[static_cast<size_t>(i)] = static_cast<int32_t>(
        i % 8 * 32 + static_cast<int64_t>(random_bits(3, static_cast<uint64_t>(i)) % 32));
  }
  MoePlan plan(shape);
  const Rows input(is_gate_up ? row_count * 2048 : slots * 512);
  std::vector<uint16_t> act(static_cast<size_t>(slots * 512));
  std::vector<float> out(static_cast<size_t>(row_count * 2048));
  const std::vector<float> scales(512, 1e-3f), slot_weights(static_cast<size_t>(slots), 0.125f);
  const AlignedBytes packed(moe_packed_slots_bytes(shape));
  const AlignedBytes scratch(
      std::max(moe_gate_up_scratch_bytes(shape), moe_down_scratch_bytes(shape)));
  plan.build(choice.data(), row_count);
  const MoeGateUpArgs gate_up{.x = input.bf16.data(),
                              .x_stride = 2048,
                              .sorted_slots = plan.sorted_slots(),
                              .slots_per_row = 8,
                              .out = act.data(),
                              .out_stride = 512,
                              .weights = weights.data(),
                              .expert_stride_bytes = stride,
                              .tensor_scales = scales.data(),
                              .format = format,
                              .arithmetic = LinearArithmetic::exact,
                              .hidden = 2048,
                              .intermediate = 512};
  const MoeDownArgs down{.x = input.bf16.data(),
                         .x_stride = 512,
                         .x_packed = packed.data(),
                         .tasks = plan.pack_tasks().data(),
                         .num_tasks = static_cast<int64_t>(plan.pack_tasks().size()),
                         .sorted_slots = plan.sorted_slots(),
                         .slot_positions = plan.slot_positions(),
                         .slot_weights = slot_weights.data(),
                         .slots_per_row = 8,
                         .rows = row_count,
                         .out = out.data(),
                         .out_stride = 2048,
                         .weights = weights.data(),
                         .expert_stride_bytes = stride,
                         .tensor_scales = scales.data(),
                         .format = format,
                         .arithmetic = LinearArithmetic::exact,
                         .hidden = 2048,
                         .intermediate = 512};
  for (auto iteration : state) {
    (void)iteration;
    if (is_gate_up) {
      plan.build(choice.data(), row_count);
      for (const MoeTask& task : plan.gate_up_tasks()) {
        kernels.gate_up(gate_up, task, scratch.data());
      }
    } else {
      for (const MoeTask& task : plan.pack_tasks()) kernels.pack_slots(down, task);
      for (int64_t i = 0; i < plan.down_tasks(); ++i) {
        kernels.down_combine(down, plan.down_begin(i), plan.down_begin(i + 1), scratch.data());
      }
    }
    benchmark::ClobberMemory();
  }
  report(state, static_cast<double>(slots * 2048 * 512 * (is_gate_up ? 2 : 1)),
         static_cast<double>(plan.active_experts() * stride));
  state.counters["experts"] = static_cast<double>(plan.active_experts());
}

void pack(benchmark::State& state, PanelFormat format, int64_t n, int64_t k) {
  const WeightArena weight(static_cast<size_t>(n * k * 2)), scales(static_cast<size_t>(n * k / 16));
  std::memset(weight.data(), 0x35, weight.size());
  std::memset(scales.data(), 0x35, scales.size());
  const WeightArena packed(packed_linear_bytes(format, n, k));
  const LinearSource source{format, n, k, weight.data(), scales.data()};
  for (auto iteration : state) {
    (void)iteration;
    pack_linear_panels(source, packed.data(), 0, num_panels(n));
    benchmark::ClobberMemory();
  }
  report(state, 0, static_cast<double>(packed.size()));
}

const char* const kFormatNames[] = {"bf16", "fp8", "nvfp4"};
constexpr PanelFormat kFormats[] = {PanelFormat::bf16, PanelFormat::fp8, PanelFormat::nvfp4};

void register_level(int level) {
  const LinearKernels& kernels = linear_kernels(level);
  const std::string name = kernels.level;
  for (const PanelFormat format : kFormats) {
    const std::string format_name = kFormatNames[static_cast<int>(format)];
    const auto add = [&](const char* what, LinearArithmetic arithmetic, int64_t m, int64_t n,
                         int64_t k) {
      const std::string full = "linear/" + name + "/" + format_name + "/" + what + "/m" +
                               std::to_string(m) + "_n" + std::to_string(n) + "_k" +
                               std::to_string(k);
      benchmark::RegisterBenchmark(full.c_str(), dense, &kernels,
                                   Problem{format, arithmetic, m, n, k})
          ->Unit(benchmark::kMicrosecond);
    };
    for (const int64_t m : {int64_t{1}, int64_t{4}, int64_t{16}, int64_t{512}}) {
      add("exact", LinearArithmetic::exact, m, 1024, 2048);
    }
    add("exact", LinearArithmetic::exact, 1, 65536, 2048);
    add("f32", LinearArithmetic::f32, 512, 1024, 2048);
    for (const int64_t rows : {int64_t{1}, int64_t{512}}) {
      for (const Half half : {Half::gate_up, Half::down}) {
        const std::string full = "experts/" + name + "/" + format_name +
                                 (half == Half::gate_up ? "/gate_up/r" : "/down/r") +
                                 std::to_string(rows);
        benchmark::RegisterBenchmark(full.c_str(), experts, level, format, rows, half)
            ->Unit(benchmark::kMicrosecond);
      }
    }
  }
}

void register_all() {
  benchmark::RegisterBenchmark("linear/naive/bf16/m1_n1024_k2048", naive, 1, 1024, 2048)
      ->Unit(benchmark::kMicrosecond);
  for (const IsaLevel level : isa_levels_up_to(detect_isa_level())) {
    register_level(static_cast<int>(level));
  }
  benchmark::RegisterBenchmark("linear/lm_head/bf16/m1_n248320_k2048", dense,
                               &linear_kernels(static_cast<int>(detect_isa_level())),
                               Problem{PanelFormat::bf16, LinearArithmetic::exact, 1, 248320, 2048})
      ->Unit(benchmark::kMicrosecond);
  for (const PanelFormat format : kFormats) {
    const std::string full =
        std::string("pack/") + kFormatNames[static_cast<int>(format)] + "/n8192_k2048";
    benchmark::RegisterBenchmark(full.c_str(), pack, format, 8192, 2048)
        ->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace
}  // namespace nibble::cpu

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  nibble::cpu::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
