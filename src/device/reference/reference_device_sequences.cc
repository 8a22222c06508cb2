// The reference device's operations that walk sequences: rotary positions, KV pages, attention,
// convolution, delta rule.
#include "device/reference/elements.h"
#include "device/reference/reference_device_impl.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/conv.h"
#include "kernels/reference/delta.h"
#include "kernels/reference/rope.h"

#include <vector>

namespace nibble::device {
namespace {

std::vector<float> row_f32(ConstTensorView view, int64_t row) {
  std::vector<float> out;
  for (int64_t i = 0; i < view.row_elements(); ++i) {
    out.push_back(static_cast<float>(element(view, row * view.row_elements() + i)));
  }
  return out;
}

int32_t start_of(const SequenceStep& step) {
  return step.kv_len - step.q_len;
}

// keep(slot, tokens): the states asked for of sequence s, by the step's tokens before each.
template <typename Keep>
void for_saves(const StepPlan& plan, int32_t s, const Keep& keep) {
  for (int32_t i = 0; i < plan.num_state_saves; ++i) {
    const StateSave& save = plan.state_saves[i];
    if (save.sequence == s) keep(save.slot, save.num_tokens - start_of(plan.sequences[s]));
  }
}

// Element index of (token, head, 0) in the pages of a sequence.
int64_t kv_index(const StepPlan& plan, int32_t sequence, int64_t token, int64_t head, int64_t heads,
                 int64_t dim) {
  const int32_t page = plan.page_table[sequence * plan.page_table_stride + token / kPageTokens];
  return ((page * heads + head) * kPageTokens + token % kPageTokens) * dim;
}

}  // namespace

void ReferenceDevice::qk_norm_rope(const StepPlan& plan, const AttentionWeights& weights,
                                   ConstTensorView q_gate, TensorView q, TensorView gate,
                                   TensorView k) {
  const int64_t dim = weights.head_dim;
  const int64_t pairs = spec_.rotary_dim / 2;
  std::vector<double> cosines(static_cast<size_t>(pairs)), sines(cosines.size());
  std::vector<double> head(static_cast<size_t>(dim));
  const auto turn = [&](const float* x, const float* norm, TensorView out, int64_t at) {
    reference::norm_rotate(x, norm, cosines.data(), sines.data(), dim, pairs, spec_.rms_norm_eps,
                           head.data());
    for (int64_t i = 0; i < dim; ++i) store(out, at + i, head[static_cast<size_t>(i)]);
  };
  for (int64_t r = 0; r < q.rows(); ++r) {
    reference::rope_angles(plan.positions + 3 * r, spec_.rope_theta, spec_.rotary_dim,
                           spec_.mrope_section, cosines.data(), sines.data());
    for (int64_t h = 0; h < weights.num_heads; ++h) {
      const float* both = q_gate.as<float>() + (r * weights.num_heads + h) * 2 * dim;
      const int64_t at = (r * weights.num_heads + h) * dim;
      turn(both, weights.q_norm, q, at);
      for (int64_t i = 0; i < dim; ++i) store(gate, at + i, both[dim + i]);
    }
    for (int64_t h = 0; h < weights.num_kv_heads; ++h) {
      const int64_t at = (r * weights.num_kv_heads + h) * dim;
      turn(k.as<float>() + at, weights.k_norm, k, at);
    }
  }
}

void ReferenceDevice::kv_store(const StepPlan& plan, const AttentionWeights& weights,
                               const KvLayer& cache, ConstTensorView k, ConstTensorView v) {
  const int64_t heads = weights.num_kv_heads;
  const int64_t dim = weights.head_dim;
  const TensorView keys(cache.k, cache.dtype, Shape{1});
  const TensorView values(cache.v, cache.dtype, Shape{1});
  const bool scaled = cache.dtype == DType::f8_e4m3;
  const float k_scale = scaled ? cache.k_scale : 1.0f, v_scale = scaled ? cache.v_scale : 1.0f;
  for (int32_t s = 0; s < plan.num_sequences; ++s) {
    const SequenceStep& step = plan.sequences[s];
    for (int64_t i = 0; i < step.q_len * heads * dim; ++i) {
      const int64_t token = i / (heads * dim);
      const int64_t to =
          kv_index(plan, s, start_of(step) + token, i / dim % heads, heads, dim) + i % dim;
      const int64_t from = step.first_row * heads * dim + i;
      store(keys, to, static_cast<float>(element(k, from)) / k_scale);
      store(values, to, static_cast<float>(element(v, from)) / v_scale);
    }
  }
}

void ReferenceDevice::attention(const StepPlan& plan, const AttentionWeights& weights,
                                const KvLayer& cache, ConstTensorView q, TensorView core) {
  const int64_t kv_heads = weights.num_kv_heads, dim = weights.head_dim;
  const ConstTensorView keys(cache.k, cache.dtype, Shape{1});
  const ConstTensorView values(cache.v, cache.dtype, Shape{1});
  const bool scaled = cache.dtype == DType::f8_e4m3;
  const double k_scale = scaled ? cache.k_scale : 1.0, v_scale = scaled ? cache.v_scale : 1.0;
  pool_.parallel_for(plan.num_sequences * weights.num_heads, [&](int64_t task, int) {
    const auto s = static_cast<int32_t>(task / weights.num_heads);
    const int64_t h = task % weights.num_heads;
    const SequenceStep& step = plan.sequences[s];
    const int64_t kv_head = h / (weights.num_heads / kv_heads);
    std::vector<double> k, v, head(static_cast<size_t>(dim));
    for (int64_t i = 0; i < step.kv_len * dim; ++i) {
      const int64_t at = kv_index(plan, s, i / dim, kv_head, kv_heads, dim) + i % dim;
      k.push_back(element(keys, at) * k_scale);
      v.push_back(element(values, at) * v_scale);
    }
    for (int64_t t = 0; t < step.q_len; ++t) {
      const int64_t at = ((step.first_row + t) * weights.num_heads + h) * dim;
      reference::attention(q.as<float>() + at, k.data(), v.data(), start_of(step) + t + 1, dim,
                           head.data());
      for (int64_t i = 0; i < dim; ++i) store(core, at + i, head[static_cast<size_t>(i)]);
    }
  });
}

void ReferenceDevice::short_conv(const StepPlan& plan, const DeltaNetWeights& weights,
                                 const StateLayer& cache, ConstTensorView x, TensorView out) {
  const int64_t channels = x.row_elements();
  const int64_t columns = cache.conv_columns;
  for (int32_t s = 0; s < plan.num_sequences; ++s) {
    const SequenceStep& step = plan.sequences[s];
    const auto window = [&](int32_t slot) {
      return TensorView(cache.conv_window + slot * cache.conv_stride_bytes, cache.conv_dtype,
                        Shape{columns, channels});
    };
    std::vector<float> rows(static_cast<size_t>(columns * channels), 0.0f);
    if (step.state_read_slot != kZeroState) {
      for (size_t i = 0; i < rows.size(); ++i) {
        rows[i] =
            static_cast<float>(element(window(step.state_read_slot), static_cast<int64_t>(i)));
      }
    }
    for (int32_t t = 0; t < step.q_len; ++t) {
      const std::vector<float> row = row_f32(x, step.first_row + t);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    std::vector<double> result(static_cast<size_t>(step.q_len * channels));
    reference::short_conv(rows.data() + columns * channels, weights.conv, step.q_len, channels,
                          weights.conv_kernel, result.data());
    for (size_t i = 0; i < result.size(); ++i) {
      store(out, step.first_row * channels + static_cast<int64_t>(i), result[i]);
    }
    const auto keep = [&](int32_t slot, int64_t tokens) {
      for (int64_t i = 0; i < columns * channels; ++i) {
        store(window(slot), i, rows[static_cast<size_t>(tokens * channels + i)]);
      }
    };
    keep(step.state_write_slot, step.q_len);
    for_saves(plan, s, keep);
  }
}

void ReferenceDevice::gated_delta(const StepPlan& plan, const DeltaNetWeights& weights,
                                  const StateLayer& cache, ConstTensorView qkv, ConstTensorView g,
                                  ConstTensorView beta, TensorView core) {
  const int64_t dk = weights.key_head_dim, dv = weights.value_head_dim;
  const int64_t keys = weights.num_key_heads * dk, heads = weights.num_value_heads;
  pool_.parallel_for(plan.num_sequences * heads, [&](int64_t task, int) {
    const auto s = static_cast<int32_t>(task / heads);
    const int64_t h = task % heads;
    const SequenceStep& step = plan.sequences[s];
    const int64_t key_head = h / (heads / weights.num_key_heads);
    const auto state_of = [&](int32_t slot) {
      return cache.recurrent + slot * cache.recurrent_stride + h * dk * dv;
    };
    std::vector<double> head(static_cast<size_t>(dv));
    std::vector<double> state(static_cast<size_t>(dk * dv), 0.0);
    if (step.state_read_slot != kZeroState) {
      state.assign(state_of(step.state_read_slot), state_of(step.state_read_slot) + dk * dv);
    }
    const auto keep = [&](int32_t slot) {
      for (size_t i = 0; i < state.size(); ++i) state_of(slot)[i] = static_cast<float>(state[i]);
    };
    for (int64_t r = step.first_row; r < step.first_row + step.q_len; ++r) {
      const float* row = qkv.as<float>() + r * qkv.row_elements();
      const int64_t gate = r * heads + h;
      const reference::DeltaToken token{.q = row + key_head * dk,
                                        .k = row + keys + key_head * dk,
                                        .v = row + 2 * keys + h * dv,
                                        .g = element(g, gate),
                                        .beta = element(beta, gate)};
      reference::gated_delta_step(token, dk, dv, state.data(), head.data());
      for (int64_t i = 0; i < dv; ++i) store(core, gate * dv + i, head[static_cast<size_t>(i)]);
      for_saves(plan, s, [&](int32_t slot, int64_t tokens) {
        if (tokens == r - step.first_row + 1) keep(slot);
      });
    }
    keep(step.state_write_slot);
  });
}

}  // namespace nibble::device
