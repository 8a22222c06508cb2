// Step buffers and cache pools on the CPU device: what a kernel finds behind their pointers.
#include "runtime/cache_pools.h"
#include "runtime/step_buffers.h"
#include "tests/e2e/demo_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

namespace nibble::runtime {
namespace {

StepCapacity small_capacity() {
  StepCapacity capacity;
  capacity.rows = 8;
  capacity.sequences = 3;
  capacity.pages_per_sequence = 4;
  capacity.logit_rows = 3;
  capacity.state_saves = 2;
  return capacity;
}

class StepMemoryTest : public testing::Test {
 protected:
  ThreadPool pool_{1, {}};
  std::unique_ptr<device::Device> device_ =
      device::make_cpu_device(device::Arithmetic::exact, IsaLevel::scalar, pool_);
};

TEST_F(StepMemoryTest, APlanHoldsTheStepAtFixedAddresses) {
  const auto buffers = value_or_die(StepBuffers::create(*device_, small_capacity()));
  const std::vector<int32_t> first_pages = {5, 9};
  const std::vector<int32_t> second_pages = {7};
  Step step;
  step.token_ids = {10, 11, 12};
  step.positions = {64, 64, 64, 0, 0, 0, 1, 1, 1};
  step.sequences = {{device::SequenceKind::decode, 0, 1, 65, 2, 2},
                    {device::SequenceKind::prefill, 1, 2, 2, device::kZeroState, 0}};
  step.pages = {first_pages, second_pages};
  step.logit_rows = {0, 2};
  step.state_saves = {{0, 64, 1}};
  step.samples.resize(2);
  step.samples[1].logits_row = 1;

  const device::StepPlan& plan = buffers->load(step);
  EXPECT_EQ(plan.num_rows, 3);
  EXPECT_EQ(plan.num_sequences, 2);
  EXPECT_EQ(plan.num_logit_rows, 2);
  EXPECT_EQ(plan.num_state_saves, 1);
  EXPECT_EQ(plan.page_table_stride, 4);
  EXPECT_EQ(plan.num_kv_pages, 3);
  EXPECT_TRUE(std::equal(step.token_ids.begin(), step.token_ids.end(), plan.token_ids));
  EXPECT_TRUE(std::equal(step.positions.begin(), step.positions.end(), plan.positions));
  const int32_t row_sequence[] = {0, 1, 1};
  EXPECT_EQ(std::memcmp(plan.row_sequence, row_sequence, sizeof(row_sequence)), 0);
  EXPECT_EQ(plan.page_table[0], 5);
  EXPECT_EQ(plan.page_table[1], 9);
  EXPECT_EQ(plan.page_table[4], 7);
  EXPECT_EQ(plan.sequences[1].state_read_slot, device::kZeroState);
  EXPECT_EQ(plan.logit_rows[1], 2);
  EXPECT_EQ(plan.state_saves[0].num_tokens, 64);
  const device::SamplePlan samples = buffers->sample_plan(100);
  EXPECT_EQ(samples.num_rows, 2);
  EXPECT_EQ(samples.rows[1].logits_row, 1);
  EXPECT_EQ(samples.vocab_limit, 100);

  const int32_t* tokens = plan.token_ids;
  const device::SampleRow* rows = samples.rows;
  step.token_ids[0] = 99;
  EXPECT_EQ(buffers->load(step).token_ids, tokens);
  EXPECT_EQ(tokens[0], 99);
  EXPECT_EQ(plan.num_kv_pages, 3);  // counted anew
  EXPECT_EQ(buffers->sample_plan(100).rows, rows);
}

using StepMemoryDeathTest = StepMemoryTest;

TEST_F(StepMemoryDeathTest, AStepThatDoesNotFitAborts) {
  const auto buffers = value_or_die(StepBuffers::create(*device_, small_capacity()));
  Step step;
  EXPECT_DEATH(buffers->load(step), "rows of the step");
  step.token_ids.assign(9, 1);
  EXPECT_DEATH(buffers->load(step), "rows of the step");
  step.token_ids.assign(2, 1);
  step.positions.assign(6, 0);
  step.sequences = {{device::SequenceKind::prefill, 1, 1, 1, device::kZeroState, 0}};
  step.pages.resize(1);
  EXPECT_DEATH(buffers->load(step), "one behind the other");
}

CacheGeometry geometry_of_four_layers() {
  CacheGeometry geometry;
  geometry.layers = {CacheKind::state, CacheKind::kv, CacheKind::state, CacheKind::kv};
  geometry.num_kv_heads = 2;
  geometry.head_dim = 16;
  geometry.kv_dtype = DType::f8_e4m3;
  geometry.k_scales = {1.0f, 0.5f, 1.0f, 0.25f};
  geometry.v_scales = {1.0f, 2.0f, 1.0f, 3.0f};
  geometry.num_value_heads = 3;
  geometry.key_head_dim = 5;  // odd on purpose: slots must stay aligned
  geometry.value_head_dim = 7;
  geometry.conv_channels = 11;
  geometry.conv_columns = 3;
  geometry.conv_dtype = DType::bf16;
  return geometry;
}

struct Region {
  const std::byte* begin;
  size_t bytes;
};

TEST_F(StepMemoryTest, CachePoolsAreDisjointAlignedAndOfThePlannedSize) {
  constexpr int32_t kPages = 3;
  constexpr int32_t kSlots = 4;
  const CacheGeometry geometry = geometry_of_four_layers();
  const auto pools = value_or_die(CachePools::create(*device_, geometry, kPages, kSlots));
  EXPECT_EQ(pools->bytes(), kPages * kv_page_bytes(geometry) + kSlots * state_slot_bytes(geometry));
  EXPECT_EQ(kv_page_bytes(geometry), 2u * 2u * 2u * 64u * 16u);

  std::vector<Region> regions;
  for (size_t i = 0; i < geometry.layers.size(); ++i) {
    const device::LayerCache& layer = pools->layers()[i];
    if (geometry.layers[i] == CacheKind::kv) {
      EXPECT_EQ(layer.kv.k_scale, geometry.k_scales[i]);
      EXPECT_EQ(layer.kv.v_scale, geometry.v_scales[i]);
      EXPECT_EQ(layer.state.recurrent, nullptr);
      regions.push_back({layer.kv.k, kPages * 2 * 64 * 16});
      regions.push_back({layer.kv.v, kPages * 2 * 64 * 16});
      continue;
    }
    EXPECT_EQ(layer.kv.k, nullptr);
    EXPECT_EQ(layer.state.conv_columns, 3);
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      const auto* recurrent = reinterpret_cast<const std::byte*>(
          layer.state.recurrent + slot * layer.state.recurrent_stride);
      regions.push_back({recurrent, 3 * 5 * 7 * sizeof(float)});
      regions.push_back(
          {layer.state.conv_window + slot * layer.state.conv_stride_bytes, 11 * 3 * 2});
    }
  }
  std::sort(regions.begin(), regions.end(),
            [](const Region& a, const Region& b) { return a.begin < b.begin; });
  for (size_t i = 0; i < regions.size(); ++i) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(regions[i].begin) % 64, 0u);
    if (i == 0) continue;
    EXPECT_GE(regions[i].begin, regions[i - 1].begin + regions[i - 1].bytes);
  }
}

TEST_F(StepMemoryTest, MemoryNeedsCountWhatTheExecutorTakes) {
  DemoModel model(device::Arithmetic::exact, IsaLevel::scalar, 1);
  EngineLimits limits;
  limits.max_num_seqs = 3;
  limits.max_num_batched_tokens = 128;
  limits.max_model_len = 256;
  limits.num_pages = 10;
  const StepCapacity capacity = step_capacity(limits);
  const MemoryNeeds needs = memory_needs(model.device(), model.source(), capacity, DType::bf16);
  const auto executor = model.make_executor(limits, DType::bf16);
  const size_t workspace =
      model.device().workspace_bytes(model::workspace_spec(model.config(), capacity.rows));
  const size_t logits = static_cast<size_t>(needs.logits_rows * needs.vocab_size) * sizeof(float);
  EXPECT_EQ(executor->bytes() + workspace,
            needs.workspace_bytes + logits + 10 * needs.kv_page_bytes + 3 * needs.state_slot_bytes);
  EXPECT_GT(needs.weight_bytes, 0u);
}

}  // namespace
}  // namespace nibble::runtime
