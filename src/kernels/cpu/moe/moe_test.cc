// Tests of grouped expert kernels and their plan: every level against kernels/reference/moe.
//
// Shapes: the model's I = 512 and H = 2048 cut down, and odd ones. gate_up's bound follows the
// error of the two sums through silu(g) * u (|silu'| < 1.1); down's is that of a sum of S * (I + 3)
// terms.
#include "kernels/cpu/moe/moe.h"

#include "base/cpu_features.h"
#include "kernels/cpu/linear/matrices_test.h"
#include "kernels/cpu/moe/moe_plan.h"
#include "kernels/reference/decode_matrix.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/moe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace nibble::cpu {
namespace {

constexpr double kUnit = 0x1p-24;  // half an ulp of f32
constexpr double kSiluError = 8 * kUnit;  // exp, addition, division, products

struct Case {
  PanelFormat format;
  LinearArithmetic arithmetic;
  int64_t rows, experts, slots, hidden, intermediate;
};

std::vector<Case> all_cases(std::vector<std::array<int64_t, 5>> shapes) {
  std::vector<Case> out;
  for (const auto& [rows, experts, slots, hidden, intermediate] : shapes) {
    for (const PanelFormat format : {PanelFormat::bf16, PanelFormat::fp8, PanelFormat::nvfp4}) {
      if (format == PanelFormat::nvfp4 && (hidden % 16 != 0 || intermediate % 16 != 0)) continue;
      for (const auto arithmetic : {LinearArithmetic::exact, LinearArithmetic::f32}) {
        out.push_back({format, arithmetic, rows, experts, slots, hidden, intermediate});
      }
    }
  }
  return out;
}

std::string describe(const Case& test, int level) {
  static const char* const kFormats[] = {"bf16", "fp8", "nvfp4"};
  return std::string(isa_level_name(static_cast<IsaLevel>(level))) + " " +
         kFormats[static_cast<int>(test.format)] +
         (test.arithmetic == LinearArithmetic::f32 ? " f32" : " exact") + " R " +
         std::to_string(test.rows) + " S " + std::to_string(test.slots) + " H " +
         std::to_string(test.hidden) + " I " + std::to_string(test.intermediate);
}

/// A bank of experts: packed matrices, tensor scales (gate and up differ) and the reference's copy.
struct Bank {
  explicit Bank(const Case& test) {
    const size_t gate_up_bytes = packed_gate_up_bytes(test.format, test.intermediate, test.hidden);
    const size_t down_bytes = packed_linear_bytes(test.format, test.hidden, test.intermediate);
    gate_up_stride = static_cast<int64_t>(gate_up_bytes);
    down_stride = static_cast<int64_t>(down_bytes);
    gate_up = AlignedBytes(gate_up_bytes * static_cast<size_t>(test.experts));
    down = AlignedBytes(down_bytes * static_cast<size_t>(test.experts));
    for (int64_t e = 0; e < test.experts; ++e) add(test, e);
  }

  void add(const Case& test, int64_t e) {
    const auto seed = static_cast<uint64_t>(100 * e);
    TestMatrix gate(test.format, test.intermediate, test.hidden, Values::normal, seed + 1);
    TestMatrix up(test.format, test.intermediate, test.hidden, Values::normal, seed + 2);
    TestMatrix out(test.format, test.hidden, test.intermediate, Values::normal, seed + 3);
    if (test.format != PanelFormat::bf16) {
      // Small enough that gates stay where silu bends.
      gate.set_tensor_scale(0.0007f + 0.0001f * static_cast<float>(e));
      up.set_tensor_scale(0.0019f);
      out.set_tensor_scale(0.011f + 0.001f * static_cast<float>(e));
    }
    pack_gate_up_panels(gate.source(), up.source(),
                        reinterpret_cast<unsigned char*>(gate_up.data()) + e * gate_up_stride, 0,
                        num_panels(test.intermediate));
    pack_linear_panels(out.source(),
                       reinterpret_cast<unsigned char*>(down.data()) + e * down_stride, 0,
                       num_panels(test.hidden));
    gate_up_scales.push_back(gate.tensor_scale());
    gate_up_scales.push_back(up.tensor_scale());
    down_scales.push_back(out.tensor_scale());
    const auto decoding = test.arithmetic == LinearArithmetic::f32 ? reference::Decoding::f32
                                                                   : reference::Decoding::real;
    reference.push_back({reference::decode_matrix(gate.view(), decoding),
                         reference::decode_matrix(up.view(), decoding),
                         reference::decode_matrix(out.view(), decoding)});
  }

  AlignedBytes gate_up, down;
  int64_t gate_up_stride = 0, down_stride = 0;
  std::vector<float> gate_up_scales, down_scales;
  std::vector<reference::Expert> reference;
};

/// Different experts per row, skewed so that expert 0 has many slots and some have none.
std::vector<int32_t> route(const Case& test, uint64_t seed) {
  Rng rng(seed);
  std::vector<int32_t> out;
  for (int64_t row = 0; row < test.rows; ++row) {
    std::vector<int32_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < test.slots) {
      const double unit = rng.unit();
      const auto e = static_cast<int32_t>(unit * unit * static_cast<double>(test.experts));
      if (std::find(chosen.begin(), chosen.end(), e) == chosen.end()) chosen.push_back(e);
    }
    out.insert(out.end(), chosen.begin(), chosen.end());
  }
  return out;
}

std::vector<float> slot_weights(size_t count) {
  Rng rng(77);
  std::vector<float> out(count);
  for (float& weight : out) weight = static_cast<float>(rng.unit());
  return out;
}

/// Activations in the element type of the arithmetic.
struct Activations {
  Activations(const std::vector<float>& values, LinearArithmetic arithmetic)
      : f32(values), bf16(to_bf16(values)), is_f32(arithmetic == LinearArithmetic::f32) {}
  void* data() { return is_f32 ? static_cast<void*>(f32.data()) : static_cast<void*>(bf16.data()); }
  double at(size_t i) const {
    return is_f32 ? double{f32[i]} : double{formats::bf16_to_f32(bf16[i])};
  }
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  bool is_f32;
};

struct Results {
  std::vector<double> act;  // [rows * slots][I]
  std::vector<float> out;  // [rows][H]
};

MoeShape shape_of(const Case& test, int threads) {
  return {.max_rows = test.rows,
          .num_experts = test.experts,
          .slots_per_row = test.slots,
          .hidden = test.hidden,
          .intermediate = test.intermediate,
          .threads = threads};
}

/// Both products on rows [first, first + rows) of x, tasks in falling order.
Results run(const Case& test, const Bank& bank, int level, const std::vector<float>& x,
            const std::vector<int32_t>& experts, const std::vector<float>& weights, int threads) {
  const MoeKernels& kernels = moe_kernels(level);
  const MoeShape shape = shape_of(test, threads);
  MoePlan plan(shape);
  plan.build(test.experts == 1 ? nullptr : experts.data(), test.rows);
  const int64_t slots = test.rows * test.slots;
  Activations input(x, test.arithmetic);
  Activations act(std::vector<float>(static_cast<size_t>(slots * test.intermediate), -1.0f),
                  test.arithmetic);
  AlignedBytes scratch(std::max(moe_gate_up_scratch_bytes(shape), moe_down_scratch_bytes(shape)));
  const MoeGateUpArgs gate_up{
      .x = input.data(),
      .x_stride = test.hidden,
      .sorted_slots = plan.sorted_slots(),
      .slots_per_row = test.slots,
      .out = act.data(),
      .out_stride = test.intermediate,
      .weights = reinterpret_cast<const unsigned char*>(bank.gate_up.data()),
      .expert_stride_bytes = bank.gate_up_stride,
      .tensor_scales = bank.gate_up_scales.data(),
      .format = test.format,
      .arithmetic = test.arithmetic,
      .hidden = test.hidden,
      .intermediate = test.intermediate};
  for (size_t i = plan.gate_up_tasks().size(); i-- > 0;) {
    kernels.gate_up(gate_up, plan.gate_up_tasks()[i], scratch.data());
  }
  AlignedBytes packed(moe_packed_slots_bytes(shape));
  Results results;
  results.out.assign(static_cast<size_t>(test.rows * test.hidden), -1.0f);
  const MoeDownArgs down{.x = act.data(),
                         .x_stride = test.intermediate,
                         .x_packed = packed.data(),
                         .tasks = plan.pack_tasks().data(),
                         .num_tasks = static_cast<int64_t>(plan.pack_tasks().size()),
                         .sorted_slots = plan.sorted_slots(),
                         .slot_positions = plan.slot_positions(),
                         .slot_weights = weights.data(),
                         .slots_per_row = test.slots,
                         .rows = test.rows,
                         .out = results.out.data(),
                         .out_stride = test.hidden,
                         .weights = reinterpret_cast<const unsigned char*>(bank.down.data()),
                         .expert_stride_bytes = bank.down_stride,
                         .tensor_scales = bank.down_scales.data(),
                         .format = test.format,
                         .arithmetic = test.arithmetic,
                         .hidden = test.hidden,
                         .intermediate = test.intermediate};
  for (const MoeTask& task : plan.pack_tasks()) kernels.pack_slots(down, task);
  for (int64_t i = plan.down_tasks(); i-- > 0;) {
    kernels.down_combine(down, plan.down_begin(i), plan.down_begin(i + 1), scratch.data());
  }
  for (int64_t i = 0; i < slots * test.intermediate; ++i) {
    results.act.push_back(act.at(static_cast<size_t>(i)));
  }
  return results;
}

void check_gate_up(const Case& test, const Results& results, const reference::GateUp& expected) {
  const double terms = static_cast<double>(test.hidden + 3) * (1 + 0x1p-10);
  for (size_t i = 0; i < results.act.size(); ++i) {
    const double gate = expected.gate[i].value, up = expected.up[i].value;
    const double gate_error = terms * kUnit * expected.gate[i].magnitude;
    const double up_error = terms * kUnit * expected.up[i].magnitude;
    const double silu = reference::silu(gate);
    const double value = silu * up;
    double limit = 1.1 * gate_error * (std::fabs(up) + up_error) + std::fabs(silu) * up_error +
                   kSiluError * std::fabs(value) + 0x1p-120;
    if (test.arithmetic == LinearArithmetic::exact) limit += 0x1p-8 * (std::fabs(value) + limit);
    ASSERT_LE(std::fabs(results.act[i] - value), limit)
        << "slot " << static_cast<int64_t>(i) / test.intermediate << " column "
        << static_cast<int64_t>(i) % test.intermediate << " found " << results.act[i]
        << " expected " << value;
  }
}

void check_down(const Case& test, const Results& results,
                const std::vector<reference::Sum>& expected) {
  // Per slot I + 3 roundings, the weight's product, and S additions.
  const double terms = static_cast<double>(test.intermediate + test.slots + 4) * (1 + 0x1p-10);
  for (size_t i = 0; i < results.out.size(); ++i) {
    ASSERT_LE(std::fabs(results.out[i] - expected[i].value),
              terms * kUnit * expected[i].magnitude + 0x1p-120)
        << "row " << static_cast<int64_t>(i) / test.hidden << " column "
        << static_cast<int64_t>(i) % test.hidden << " found " << results.out[i] << " expected "
        << expected[i].value;
  }
}

int num_levels() {
  return static_cast<int>(isa_levels_up_to(detect_isa_level()).size());
}

TEST(Moe, MatchesReference) {
  for (const Case& test : all_cases({{9, 6, 3, 128, 64},
                                     {140, 5, 2, 32, 16},
                                     {1, 12, 8, 256, 512},
                                     {25, 1, 1, 96, 48},
                                     {7, 4, 2, 331, 37},
                                     {3, 3, 2, 1, 1}})) {
    const Bank bank(test);
    const std::vector<int32_t> experts = route(test, 5);
    const std::vector<float> x = test_rows(test.rows, test.hidden, Values::normal, 6);
    const std::vector<float> weights = slot_weights(experts.size());
    const reference::GateUp expected = reference::gate_up(std::vector<double>(x.begin(), x.end()),
                                                          test.rows, bank.reference, experts);
    for (int level = 0; level < num_levels(); ++level) {
      SCOPED_TRACE(describe(test, level));
      const Results results = run(test, bank, level, x, experts, weights, 2);
      check_gate_up(test, results, expected);
      // down starts from the kernel's own activations.
      check_down(test, results,
                 reference::down_combine(results.act, test.rows, bank.reference, experts, weights));
    }
  }
}

TEST(Moe, BitsDoNotDependOnBatchOrTasks) {
  for (const Case& test : all_cases({{120, 5, 2, 64, 48}, {40, 9, 4, 272, 80}})) {
    const Bank bank(test);
    const std::vector<int32_t> experts = route(test, 15);
    const std::vector<float> x = test_rows(test.rows, test.hidden, Values::normal, 16);
    const std::vector<float> weights = slot_weights(experts.size());
    for (int level = 0; level < num_levels(); ++level) {
      SCOPED_TRACE(describe(test, level));
      const Results together = run(test, bank, level, x, experts, weights, 1);
      const Results split = run(test, bank, level, x, experts, weights, 50);
      ASSERT_EQ(together.out, split.out);
      ASSERT_EQ(together.act, split.act);
      Case one = test;
      one.rows = 1;
      for (int64_t row = 0; row < test.rows; row += 7) {
        const auto x_row = x.begin() + row * test.hidden;
        const auto e_row = experts.begin() + row * test.slots;
        const auto w_row = weights.begin() + row * test.slots;
        const Results alone = run(one, bank, level, {x_row, x_row + test.hidden},
                                  {e_row, e_row + test.slots}, {w_row, w_row + test.slots}, 2);
        ASSERT_EQ(std::memcmp(alone.out.data(), together.out.data() + row * test.hidden,
                              static_cast<size_t>(test.hidden) * 4),
                  0)
            << row;
      }
    }
  }
}

TEST(Moe, SwigluKeepsItsEnds) {
  // Gates of -1e4 .. 1e4 in steps, up = 1: saturation on both sides, NaN through.
  const Case test{PanelFormat::bf16, LinearArithmetic::f32, 9, 1, 1, 2, 1};
  Tensor gate(DType::bf16, {1, 2}), up(DType::bf16, {1, 2});
  gate.view().as<uint16_t>()[0] = formats::bf16_from_f32(1.0f);
  up.view().as<uint16_t>()[1] = formats::bf16_from_f32(1.0f);
  Bank bank(test);
  const auto source = [](Tensor& tensor) {
    return LinearSource{PanelFormat::bf16, 1, 2,
                        reinterpret_cast<const unsigned char*>(tensor.view().data()), nullptr};
  };
  pack_gate_up_panels(source(gate), source(up),
                      reinterpret_cast<unsigned char*>(bank.gate_up.data()), 0, 1);
  const float gates[9] = {-1e4f, -90.0f, -86.0f, -1.0f, 0.0f, 1.0f, 88.0f, 1e4f, std::nanf("")};
  std::vector<float> x;
  for (const float g : gates) x.insert(x.end(), {g, 1.0f});
  for (int level = 0; level < num_levels(); ++level) {
    SCOPED_TRACE(describe(test, level));
    const std::vector<int32_t> experts(9, 0);
    const Results results = run(test, bank, level, x, experts, std::vector<float>(9, 1.0f), 1);
    for (size_t i = 0; i < 8; ++i) {
      const double expected = reference::silu(gates[i]);
      EXPECT_LE(std::fabs(results.act[i] - expected), kSiluError * std::fabs(expected) + 0x1p-110)
          << gates[i];
    }
    EXPECT_TRUE(std::isnan(results.act[8]));
  }
}

TEST(MoePlan, SortsEverySlotAndFitsItsBuffers) {
  const Case test{PanelFormat::nvfp4, LinearArithmetic::exact, 500, 64, 8, 64, 64};
  MoePlan plan(shape_of(test, 4));
  for (const int64_t rows : {int64_t{500}, int64_t{1}, int64_t{0}, int64_t{37}}) {
    Case step = test;
    step.rows = rows;
    const std::vector<int32_t> experts = route(step, 3);
    plan.build(experts.data(), rows);
    std::vector<int> packed(experts.size());
    for (const MoeTask& task : plan.pack_tasks()) {
      EXPECT_LE(task.end - task.begin, kMoeTaskRows);
      for (int32_t i = task.begin; i < task.end; ++i) {
        const auto slot = static_cast<size_t>(plan.sorted_slots()[i]);
        EXPECT_EQ(experts[slot], task.expert);
        EXPECT_EQ(plan.slot_positions()[slot], i);
        ++packed[slot];
      }
    }
    EXPECT_EQ(std::count(packed.begin(), packed.end(), 1), static_cast<int64_t>(experts.size()));
    int64_t work = 0;
    for (const MoeTask& task : plan.gate_up_tasks()) {
      work += (task.end - task.begin) * (task.panel_end - task.panel_begin);
    }
    EXPECT_EQ(work, static_cast<int64_t>(experts.size()) * num_panels(64));
    EXPECT_EQ(plan.down_begin(plan.down_tasks()), rows == 0 ? 0 : num_panels(64));
  }
}

}  // namespace
}  // namespace nibble::cpu
