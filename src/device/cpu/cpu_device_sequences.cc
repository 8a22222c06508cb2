// The CPU device's operations that walk sequences: KV store, attention, convolution, delta rule.
//
// Every sequence is cut into independent items; the items of all sequences form one task list, so
// that one long sequence and many short ones both keep the threads busy. What an item computes
// never depends on the list around it.
#include "device/cpu/cpu_device_impl.h"

#include <algorithm>

namespace nibble::device {
namespace {

constexpr int64_t kStoreTokensPerItem = 32;

const int32_t* pages_of(const StepPlan& plan, int32_t sequence) {
  return plan.page_table + static_cast<int64_t>(sequence) * plan.page_table_stride;
}

int64_t start_of(const SequenceStep& step) {
  return step.kv_len - step.q_len;
}

}  // namespace

template <typename Items, typename Body>
void CpuDevice::for_sequence_items(const StepPlan& plan, const Items& items, const Body& body) {
  item_ends_.clear();
  int64_t total = 0;
  for (int32_t s = 0; s < plan.num_sequences; ++s) {
    total += items(plan.sequences[s]);
    item_ends_.push_back(total);
  }
  pool_.parallel_for(total, [&](int64_t task, int worker) {
    const auto end = std::upper_bound(item_ends_.begin(), item_ends_.end(), task);
    const auto sequence = static_cast<int32_t>(end - item_ends_.begin());
    const int64_t begin = sequence == 0 ? 0 : *(end - 1);
    body(sequence, task - begin, worker);
  });
}

void CpuDevice::collect_saves(const StepPlan& plan) {
  saves_.clear();
  for (int32_t i = 0; i < plan.num_state_saves; ++i) {
    const StateSave& save = plan.state_saves[i];
    saves_.push_back({save.sequence, save.num_tokens, save.slot});
  }
}

void CpuDevice::kv_store(const StepPlan& plan, const AttentionWeights& weights,
                         const KvLayer& cache, ConstTensorView k, ConstTensorView v) {
  const auto items = [](const SequenceStep& step) {
    return (step.q_len + kStoreTokensPerItem - 1) / kStoreTokensPerItem;
  };
  for_sequence_items(plan, items, [&](int32_t sequence, int64_t item, int) {
    const SequenceStep& step = plan.sequences[sequence];
    const cpu::KvStoreArgs args{.k = k.as<float>(),
                                .v = v.as<float>(),
                                .k_pages = cache.k,
                                .v_pages = cache.v,
                                .kv_type = element_of(cache.dtype),
                                .k_scale = cache.k_scale,
                                .v_scale = cache.v_scale,
                                .pages = pages_of(plan, sequence),
                                .first_row = step.first_row,
                                .start = start_of(step),
                                .num_kv_heads = weights.num_kv_heads,
                                .head_dim = weights.head_dim};
    const int64_t first = item * kStoreTokensPerItem;
    kernels_.attention.kv_store(args, first,
                                std::min<int64_t>(step.q_len, first + kStoreTokensPerItem));
  });
}

void CpuDevice::attention(const StepPlan& plan, const AttentionWeights& weights,
                          const KvLayer& cache, ConstTensorView q, TensorView core) {
  const auto items = [&](const SequenceStep& step) {
    return cpu::attention_items(step.q_len, weights.num_heads, weights.num_kv_heads);
  };
  for_sequence_items(plan, items, [&](int32_t sequence, int64_t item, int worker) {
    const SequenceStep& step = plan.sequences[sequence];
    const cpu::AttentionArgs args{.q = q.as<float>(),
                                  .core = core.as<float>(),
                                  .k_pages = cache.k,
                                  .v_pages = cache.v,
                                  .kv_type = element_of(cache.dtype),
                                  .k_scale = cache.k_scale,
                                  .v_scale = cache.v_scale,
                                  .pages = pages_of(plan, sequence),
                                  .first_row = step.first_row,
                                  .q_len = step.q_len,
                                  .kv_len = step.kv_len,
                                  .num_heads = weights.num_heads,
                                  .num_kv_heads = weights.num_kv_heads,
                                  .head_dim = weights.head_dim};
    kernels_.attention.attention(args, item, scratch(worker));
  });
}

void CpuDevice::short_conv(const StepPlan& plan, const DeltaNetWeights& weights,
                           const StateLayer& cache, ConstTensorView x, TensorView out) {
  collect_saves(plan);
  const int64_t channels = x.row_elements();
  const auto items = [&](const SequenceStep&) { return cpu::short_conv_items(channels); };
  for_sequence_items(plan, items, [&](int32_t sequence, int64_t item, int) {
    const SequenceStep& step = plan.sequences[sequence];
    const auto window = [&](int32_t slot) {
      return cache.conv_window + slot * cache.conv_stride_bytes;
    };
    const bool fresh = step.state_read_slot == kZeroState;
    const cpu::ShortConvArgs args{.x = x.data(),
                                  .out = out.as<float>(),
                                  .type = element_of(x.dtype()),
                                  .weight = weights.conv,
                                  .channels = channels,
                                  .kernel = weights.conv_kernel,
                                  .columns = cache.conv_columns,
                                  .window_in = fresh ? nullptr : window(step.state_read_slot),
                                  .window_out = window(step.state_write_slot),
                                  .first_row = step.first_row,
                                  .q_len = step.q_len,
                                  .saves = saves_.data(),
                                  .num_saves = static_cast<int64_t>(saves_.size()),
                                  .sequence = sequence,
                                  .window_pool = cache.conv_window,
                                  .window_stride_bytes = cache.conv_stride_bytes,
                                  .start = start_of(step)};
    kernels_.conv.short_conv(args, item);
  });
}

void CpuDevice::gated_delta(const StepPlan& plan, const DeltaNetWeights& weights,
                            const StateLayer& cache, ConstTensorView qkv, ConstTensorView g,
                            ConstTensorView beta, TensorView core) {
  collect_saves(plan);
  const auto items = [&](const SequenceStep& step) {
    return step.kind == SequenceKind::prefill
               ? cpu::delta_chunked_items(weights.num_key_heads)
               : cpu::delta_recurrent_items(weights.num_value_heads, weights.value_head_dim);
  };
  for_sequence_items(plan, items, [&](int32_t sequence, int64_t item, int worker) {
    const SequenceStep& step = plan.sequences[sequence];
    const auto state = [&](int32_t slot) {
      return cache.recurrent + slot * cache.recurrent_stride;
    };
    const bool fresh = step.state_read_slot == kZeroState;
    const cpu::GatedDeltaArgs args{.qkv = qkv.as<float>(),
                                   .g = g.as<float>(),
                                   .beta = beta.as<float>(),
                                   .core = core.as<float>(),
                                   .first_row = step.first_row,
                                   .q_len = step.q_len,
                                   .start = start_of(step),
                                   .num_key_heads = weights.num_key_heads,
                                   .num_value_heads = weights.num_value_heads,
                                   .key_head_dim = weights.key_head_dim,
                                   .value_head_dim = weights.value_head_dim,
                                   .state_in = fresh ? nullptr : state(step.state_read_slot),
                                   .state_out = state(step.state_write_slot),
                                   .saves = saves_.data(),
                                   .num_saves = static_cast<int64_t>(saves_.size()),
                                   .sequence = sequence,
                                   .state_pool = cache.recurrent,
                                   .state_stride = cache.recurrent_stride};
    if (step.kind == SequenceKind::prefill) {
      kernels_.delta.gated_delta_chunked(args, item, scratch(worker));
    } else {
      kernels_.delta.gated_delta_recurrent(args, item, scratch(worker));
    }
  });
}

}  // namespace nibble::device
