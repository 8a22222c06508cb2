#include "device/reference/reference_device.h"

#include "formats/bf16.h"
#include "formats/e4m3.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/conv.h"
#include "kernels/reference/decode_matrix.h"
#include "kernels/reference/delta.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/embed.h"
#include "kernels/reference/linear.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/rope.h"
#include "kernels/reference/route.h"
#include "tensor/tensor.h"

#include <cstring>

namespace nibble::device {
namespace {

using formats::LinearWeight;

class HostMemory : public Memory {
 public:
  explicit HostMemory(size_t bytes) : bytes_(bytes) {}
  std::byte* data() const override { return bytes_.data(); }
  size_t bytes() const override { return bytes_.size(); }

 private:
  AlignedBytes bytes_;
};

double element(ConstTensorView view, int64_t index) {
  if (view.dtype() == DType::f32) return view.as<float>()[index];
  if (view.dtype() == DType::f8_e4m3) return formats::e4m3_to_f32(view.as<uint8_t>()[index]);
  return formats::bf16_to_f32(view.as<uint16_t>()[index]);
}

void store(TensorView view, int64_t index, double value) {
  const auto rounded = static_cast<float>(value);
  if (view.dtype() == DType::f32) {
    view.as<float>()[index] = rounded;
  } else if (view.dtype() == DType::f8_e4m3) {
    view.as<uint8_t>()[index] = formats::e4m3_from_f32_saturating(rounded);
  } else {
    view.as<uint16_t>()[index] = formats::bf16_from_f32(rounded);
  }
}

void store_row(TensorView view, int64_t row, const std::vector<double>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    store(view, row * view.row_elements() + static_cast<int64_t>(i), values[i]);
  }
}

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

class ReferenceDevice final : public Device {
 public:
  ReferenceDevice(Arithmetic arithmetic, ThreadPool& pool) : Device(arithmetic), pool_(pool) {}

  std::string description() const override { return "reference"; }
  bool shares_host_memory() const override { return true; }
  Result<std::unique_ptr<Memory>> allocate(size_t bytes, const std::string&) override {
    return std::unique_ptr<Memory>(std::make_unique<HostMemory>(bytes));
  }
  void upload(std::byte* destination, std::span<const std::byte> host) override {
    if (!host.empty()) std::memcpy(destination, host.data(), host.size());
  }
  void download(std::span<std::byte> host, const std::byte* source) override {
    if (!host.empty()) std::memcpy(host.data(), source, host.size());
  }
  void copy(std::byte* destination, const std::byte* source, size_t bytes) override {
    std::memmove(destination, source, bytes);
  }
  void synchronize() override {}
  size_t workspace_bytes(const WorkspaceSpec& spec) const override {
    Workspace ignored;
    return layout_workspace(spec, nullptr, &ignored);
  }
  Result<void> set_workspace(const WorkspaceSpec& spec) override {
    spec_ = spec;
    memory_ = AlignedBytes(workspace_bytes(spec));
    layout_workspace(spec, memory_.data(), &workspace_);
    return {};
  }

  int pack_threads() const override { return 4; }  // as on a GPU, so that tests load in parallel
  // Packed form: the stored bytes, codes and then block scales.
  size_t packed_linear_bytes(WeightFormat format, int64_t out_features,
                             int64_t in_features) const override {
    const auto count = static_cast<size_t>(out_features * in_features);
    return code_bytes(format, count) + (format == WeightFormat::nvfp4 ? count / 16 : 0);
  }
  PackedLinear pack_linear(const LinearWeight& weight, std::byte* destination) override {
    pack(weight, destination, destination + weight.weight.bytes());
    return {weight.format, weight.out_features, weight.in_features, destination,
            weight.weight_scale_2};
  }
  size_t packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                              int64_t in_features) const override {
    return packed_linear_bytes(format, 2 * intermediate, in_features);
  }
  void pack_gate_up(const LinearWeight& gate, const LinearWeight& up,
                    std::byte* destination) override {
    pack_linear(gate, destination);
    pack_linear(
        up, destination + packed_linear_bytes(gate.format, gate.out_features, gate.in_features));
  }

  float max_magnitude(ConstTensorView) override { return unused(); }
  void quantize_nvfp4(ConstTensorView, float, const formats::Nvfp4Rules&, uint8_t*,
                      uint8_t*) override {
    unused();
  }
  void sample(const SamplePlan&, ConstTensorView, SampleResult*) override { unused(); }

  void embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) override {
    std::vector<double> row(static_cast<size_t>(hidden.row_elements()));
    for (int32_t r = 0; r < plan.num_rows; ++r) {
      const int32_t instead = plan.override_index == nullptr ? -1 : plan.override_index[r];
      const ConstTensorView& from = instead >= 0 ? plan.row_overrides : table;
      reference::embedding_row(from.data(), from.dtype(),
                               instead >= 0 ? instead : plan.token_ids[r], hidden.row_elements(),
                               row.data());
      store_row(hidden, r, row);
    }
  }
  void rms_norm(ConstTensorView x, const float* weight, TensorView out) override {
    std::vector<double> row(static_cast<size_t>(x.row_elements()));
    for (int64_t r = 0; r < x.rows(); ++r) {
      reference::rms_norm(x.as<float>() + r * x.row_elements(), weight, x.row_elements(),
                          spec_.rms_norm_eps, row.data());
      store_row(out, r, row);
    }
  }
  void linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
              Accumulate accumulate) override {
    const LinearWeight matrix = stored(weight.format, weight.out_features, weight.in_features,
                                       weight.data, weight.tensor_scale);
    const std::vector<double> rows = elements(x);
    pool_.parallel_for(weight.out_features, [&](int64_t n, int) {
      const std::vector<double> row = decoded_row(matrix, n);
      for (int64_t r = 0; r < x.rows(); ++r) {
        const double sum = dot(rows, r, row);
        const int64_t at = r * weight.out_features + n;
        store(out, at, accumulate == Accumulate::add ? element(out, at) + sum : sum);
      }
    });
  }
  void qk_norm_rope(const StepPlan& plan, const AttentionWeights& weights, ConstTensorView q_gate,
                    TensorView q, TensorView gate, TensorView k) override;
  void kv_store(const StepPlan& plan, const AttentionWeights& weights, const KvLayer& cache,
                ConstTensorView k, ConstTensorView v) override;
  void attention(const StepPlan& plan, const AttentionWeights& weights, const KvLayer& cache,
                 ConstTensorView q, TensorView core) override;
  void sigmoid_gate(ConstTensorView x, ConstTensorView gate, TensorView out) override {
    for (int64_t i = 0; i < x.shape().elements(); ++i) {
      store(out, i, element(x, i) * reference::sigmoid(element(gate, i)));
    }
  }
  void short_conv(const StepPlan& plan, const DeltaNetWeights& weights, const StateLayer& cache,
                  ConstTensorView x, TensorView out) override;
  void delta_gates(const DeltaNetWeights& weights, TensorView a_to_g,
                   TensorView b_to_beta) override {
    for (int64_t i = 0; i < a_to_g.shape().elements(); ++i) {
      const int64_t head = i % weights.num_value_heads;
      store(a_to_g, i,
            reference::delta_decay(a_to_g.as<float>()[i], weights.a_log[head],
                                   weights.dt_bias[head]));
      store(b_to_beta, i, reference::sigmoid(element(b_to_beta, i)));
    }
  }
  void gated_delta(const StepPlan& plan, const DeltaNetWeights& weights, const StateLayer& cache,
                   ConstTensorView qkv, ConstTensorView g, ConstTensorView beta,
                   TensorView core) override;
  void gated_rms_norm(const DeltaNetWeights& weights, ConstTensorView core, ConstTensorView z,
                      TensorView out) override {
    const int64_t dv = weights.value_head_dim;
    std::vector<double> head(static_cast<size_t>(dv));
    for (int64_t h = 0; h < core.shape().elements() / dv; ++h) {
      reference::gated_rms_norm(core.as<float>() + h * dv, z.as<float>() + h * dv, weights.norm, dv,
                                spec_.rms_norm_eps, head.data());
      for (int64_t i = 0; i < dv; ++i) store(out, h * dv + i, head[static_cast<size_t>(i)]);
    }
  }
  void moe_route(ConstTensorView logits, const int32_t* forced, TensorView experts,
                 TensorView expert_weights) override {
    const int64_t chosen = experts.row_elements();
    for (int64_t r = 0; r < logits.rows(); ++r) {
      const reference::Routing routing = reference::moe_route(
          logits.as<float>() + r * logits.row_elements(),
          forced == nullptr ? nullptr : forced + r * chosen, logits.row_elements(), chosen);
      for (int64_t k = 0; k < chosen; ++k) {
        experts.as<int32_t>()[r * chosen + k] = routing.experts[static_cast<size_t>(k)];
        store(expert_weights, r * chosen + k, routing.weights[static_cast<size_t>(k)]);
      }
    }
  }
  void moe_gate_up(const StepPlan& /*plan*/, ConstTensorView x, const PackedExperts& gate_up,
                   ConstTensorView experts, TensorView out) override;
  void moe_down_combine(const StepPlan& /*plan*/, ConstTensorView slots, const PackedExperts& down,
                        ConstTensorView experts, ConstTensorView expert_weights,
                        TensorView out) override;
  void moe_add_shared(ConstTensorView routed, ConstTensorView shared, TensorView gate_logit,
                      TensorView out, Accumulate accumulate) override {
    for (int64_t i = 0; i < out.shape().elements(); ++i) {
      const double gate = reference::sigmoid(element(gate_logit, i / out.row_elements()));
      const double base = accumulate == Accumulate::add ? element(out, i) : 0.0;
      store(out, i, base + element(routed, i) + gate * element(shared, i));
    }
    for (int64_t r = 0; r < gate_logit.rows(); ++r) {
      store(gate_logit, r, reference::sigmoid(element(gate_logit, r)));
    }
  }
  void add(ConstTensorView x, TensorView out, Accumulate accumulate) override {
    for (int64_t i = 0; i < out.shape().elements(); ++i) {
      store(out, i, element(x, i) + (accumulate == Accumulate::add ? element(out, i) : 0.0));
    }
  }
  void gather_rows(ConstTensorView x, const int32_t* rows, TensorView out) override {
    for (int64_t i = 0; i < out.shape().elements(); ++i) {
      const int64_t columns = out.row_elements();
      store(out, i, element(x, rows[i / columns] * columns + i % columns));
    }
  }

 private:
  static float unused() {
    NIBBLE_CHECK(false, "the reference device does not do this");
    return 0;
  }
  static size_t code_bytes(WeightFormat format, size_t elements) {
    switch (format) {
      case WeightFormat::f32:
        return 4 * elements;
      case WeightFormat::bf16:
        return 2 * elements;
      case WeightFormat::fp8:
        return elements;
      case WeightFormat::nvfp4:
        return elements / 2;
    }
    return 0;
  }
  static void pack(const LinearWeight& weight, std::byte* codes, std::byte* scales) {
    std::memcpy(codes, weight.weight.data(), weight.weight.bytes());
    if (weight.format == WeightFormat::nvfp4) {
      std::memcpy(scales, weight.weight_scale.data(), weight.weight_scale.bytes());
    }
  }
  /// The matrix behind packed bytes.
  static LinearWeight stored(WeightFormat format, int64_t n, int64_t k, const std::byte* data,
                             float scale) {
    LinearWeight out;
    out.format = format;
    out.out_features = n;
    out.in_features = k;
    out.weight_scale_2 = scale;
    const std::byte* scales = data + code_bytes(format, static_cast<size_t>(n * k));
    switch (format) {
      case WeightFormat::f32:
      case WeightFormat::bf16:
        out.weight = {data, format == WeightFormat::f32 ? DType::f32 : DType::bf16, Shape{n, k}};
        break;
      case WeightFormat::fp8:
        out.weight = {data, DType::f8_e4m3, Shape{n, k}};
        break;
      case WeightFormat::nvfp4:
        out.weight = {data, DType::u8, Shape{n, k / 2}};
        out.weight_scale = {scales, DType::f8_e4m3, Shape{n, k / 16}};
    }
    return out;
  }
  static std::vector<double> decoded_row(const LinearWeight& matrix, int64_t row) {
    std::vector<double> out(static_cast<size_t>(matrix.in_features));
    reference::decode_row(matrix, row, reference::Decoding::real, out.data());
    return out;
  }
  /// All elements of x, row after row.
  static std::vector<double> elements(ConstTensorView x) {
    std::vector<double> out(static_cast<size_t>(x.shape().elements()));
    for (size_t i = 0; i < out.size(); ++i) out[i] = element(x, static_cast<int64_t>(i));
    return out;
  }
  /// Row `row` of x, which has rows as long as `weights`, times weights. Eight sums side by side:
  /// in double their order does not matter, and the compiler can use vectors.
  static double dot(const std::vector<double>& x, int64_t row, const std::vector<double>& weights) {
    const size_t k = weights.size();
    const double* from = x.data() + static_cast<size_t>(row) * k;
    double sums[8] = {};
    size_t i = 0;
    for (; i + 8 <= k; i += 8) {
      for (size_t j = 0; j < 8; ++j) sums[j] += from[i + j] * weights[i + j];
    }
    double sum = 0;
    for (; i < k; ++i) sum += from[i] * weights[i];
    for (const double part : sums) sum += part;
    return sum;
  }
  /// (slot, expert) pairs by expert: a decoded row serves all slots of its expert.
  static std::vector<std::vector<int64_t>> slots_by_expert(const PackedExperts& bank,
                                                           ConstTensorView experts, int64_t slots) {
    std::vector<std::vector<int64_t>> out(static_cast<size_t>(bank.num_experts));
    for (int64_t slot = 0; slot < slots; ++slot) {
      const auto expert = experts.empty() ? 0 : experts.as<int32_t>()[slot];
      out[static_cast<size_t>(expert)].push_back(slot);
    }
    return out;
  }
  // Element index of (token, head, 0) in the pages of a sequence.
  static int64_t kv_index(const StepPlan& plan, int32_t sequence, int64_t token, int64_t head,
                          int64_t heads, int64_t dim) {
    const int32_t page = plan.page_table[sequence * plan.page_table_stride + token / kPageTokens];
    return ((page * heads + head) * kPageTokens + token % kPageTokens) * dim;
  }

  ThreadPool& pool_;
  AlignedBytes memory_;
};

void ReferenceDevice::moe_gate_up(const StepPlan& /*plan*/, ConstTensorView x,
                                  const PackedExperts& gate_up, ConstTensorView experts,
                                  TensorView out) {
  const int64_t inner = gate_up.out_features / 2, k = gate_up.in_features;
  const int64_t per_row = experts.empty() ? 1 : experts.row_elements();
  const size_t half = packed_linear_bytes(gate_up.format, inner, k);
  const auto groups = slots_by_expert(gate_up, experts, x.rows() * per_row);
  const std::vector<double> rows = elements(x);
  pool_.parallel_for(gate_up.num_experts, [&](int64_t expert, int) {
    const std::byte* data =
        gate_up.data + static_cast<size_t>(expert) * gate_up.expert_stride_bytes;
    const float* scales = gate_up.tensor_scales + 2 * expert;
    const LinearWeight gate = stored(gate_up.format, inner, k, data, scales[0]);
    const LinearWeight up = stored(gate_up.format, inner, k, data + half, scales[1]);
    const auto& slots = groups[static_cast<size_t>(expert)];
    for (int64_t i = 0; i < inner && !slots.empty(); ++i) {
      const std::vector<double> gate_row = decoded_row(gate, i), up_row = decoded_row(up, i);
      for (const int64_t slot : slots) {
        const double sum = dot(rows, slot / per_row, gate_row);
        store(out, slot * inner + i, reference::silu(sum) * dot(rows, slot / per_row, up_row));
      }
    }
  });
}

void ReferenceDevice::moe_down_combine(const StepPlan& /*plan*/, ConstTensorView x,
                                       const PackedExperts& down, ConstTensorView experts,
                                       ConstTensorView expert_weights, TensorView out) {
  const int64_t per_row = experts.empty() ? 1 : experts.row_elements();
  const int64_t count = out.rows() * per_row, n = down.out_features;
  const auto groups = slots_by_expert(down, experts, count);
  const std::vector<double> rows = elements(x);
  std::vector<double> products(static_cast<size_t>(count * n));
  pool_.parallel_for(down.num_experts, [&](int64_t expert, int) {
    const LinearWeight matrix =
        stored(down.format, n, down.in_features,
               down.data + static_cast<size_t>(expert) * down.expert_stride_bytes,
               down.tensor_scales[expert]);
    const auto& slots = groups[static_cast<size_t>(expert)];
    for (int64_t i = 0; i < n && !slots.empty(); ++i) {
      const std::vector<double> row = decoded_row(matrix, i);
      for (const int64_t slot : slots) {
        products[static_cast<size_t>(slot * n + i)] = dot(rows, slot, row);
      }
    }
  });
  for (int64_t i = 0; i < out.rows() * n; ++i) {
    double sum = 0;
    for (int64_t slot = i / n * per_row; slot < (i / n + 1) * per_row; ++slot) {
      const double weight = experts.empty() ? 1.0 : expert_weights.as<float>()[slot];
      sum += weight * products[static_cast<size_t>(slot * n + i % n)];
    }
    store(out, i, sum);
  }
}

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

}  // namespace

std::unique_ptr<Device> make_reference_device(Arithmetic arithmetic, ThreadPool& pool) {
  return std::make_unique<ReferenceDevice>(arithmetic, pool);
}

}  // namespace nibble::device
