#include "tests/support/reference_device.h"

#include "formats/bf16.h"
#include "kernels/cpu/rope/rope_table.h"
#include "kernels/reference/attention.h"
#include "kernels/reference/conv.h"
#include "kernels/reference/delta.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/embed.h"
#include "kernels/reference/linear.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/rope.h"
#include "kernels/reference/route.h"
#include "tensor/tensor.h"
#include "tests/support/decode_matrix.h"

#include <cstring>

namespace nibble::test {
namespace {

using namespace device;  // NOLINT: the file is one implementation of that interface
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
  return formats::bf16_to_f32(view.as<uint16_t>()[index]);
}

void store(TensorView view, int64_t index, double value) {
  const auto rounded = static_cast<float>(value);
  if (view.dtype() == DType::f32) {
    view.as<float>()[index] = rounded;
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

class ReferenceDevice final : public Device {
 public:
  ReferenceDevice() : Device(Arithmetic::exact) {}

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

  // Packed form: the decoded matrix, row after row, in double, tensor scale included.
  size_t packed_linear_bytes(WeightFormat, int64_t out_features,
                             int64_t in_features) const override {
    return static_cast<size_t>(out_features * in_features) * sizeof(double);
  }
  PackedLinear pack_linear(const LinearWeight& weight, std::byte* destination) override {
    const reference::Matrix matrix = reference::decode_matrix(weight, reference::Decoding::real);
    std::memcpy(destination, matrix.values.data(), matrix.values.size() * sizeof(double));
    return {weight.format, weight.out_features, weight.in_features, destination, 1.0f};
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
      reference::embedding_row(table.data(), table.dtype(), plan.token_ids[r],
                               hidden.row_elements(), row.data());
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
    const auto* matrix = reinterpret_cast<const double*>(weight.data);
    for (int64_t r = 0; r < x.rows(); ++r) {
      for (int64_t n = 0; n < weight.out_features; ++n) {
        const double sum = dot(x, r, matrix + n * weight.in_features, weight.in_features);
        const int64_t at = r * weight.out_features + n;
        store(out, at, accumulate == Accumulate::add ? element(out, at) + sum : sum);
      }
    }
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
  void moe_gate_up(ConstTensorView x, const PackedExperts& gate_up, ConstTensorView experts,
                   TensorView out) override {
    const int64_t intermediate = gate_up.out_features / 2;
    const int64_t slots = experts.empty() ? 1 : experts.row_elements();
    for (int64_t slot = 0; slot < x.rows() * slots; ++slot) {
      const double* bank = expert_matrix(gate_up, experts, slot);
      for (int64_t i = 0; i < intermediate; ++i) {
        const double gate =
            dot(x, slot / slots, bank + i * gate_up.in_features, gate_up.in_features);
        const double up = dot(x, slot / slots, bank + (intermediate + i) * gate_up.in_features,
                              gate_up.in_features);
        store(out, slot * intermediate + i, reference::silu(gate) * up);
      }
    }
  }
  void moe_down_combine(ConstTensorView x, const PackedExperts& down, ConstTensorView experts,
                        ConstTensorView expert_weights, TensorView out) override {
    const int64_t slots = experts.empty() ? 1 : experts.row_elements();
    for (int64_t r = 0; r < out.rows(); ++r) {
      for (int64_t n = 0; n < down.out_features; ++n) {
        double sum = 0;
        for (int64_t slot = r * slots; slot < (r + 1) * slots; ++slot) {
          const double weight = experts.empty() ? 1.0 : expert_weights.as<float>()[slot];
          const double* row = expert_matrix(down, experts, slot) + n * down.in_features;
          sum += weight * dot(x, slot, row, down.in_features);
        }
        store(out, r * down.out_features + n, sum);
      }
    }
  }
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
  static double dot(ConstTensorView x, int64_t row, const double* weights, int64_t k) {
    double sum = 0;
    for (int64_t i = 0; i < k; ++i) sum += element(x, row * k + i) * weights[i];
    return sum;
  }
  static const double* expert_matrix(const PackedExperts& bank, ConstTensorView experts,
                                     int64_t slot) {
    const int64_t expert = experts.empty() ? 0 : experts.as<int32_t>()[slot];
    return reinterpret_cast<const double*>(bank.data +
                                           static_cast<size_t>(expert) * bank.expert_stride_bytes);
  }
  // Element index of (token, head, 0) in the pages of a sequence.
  static int64_t kv_index(const StepPlan& plan, int32_t sequence, int64_t token, int64_t head,
                          int64_t heads, int64_t dim) {
    const int32_t page = plan.page_table[sequence * plan.page_table_stride + token / kPageTokens];
    return ((page * heads + head) * kPageTokens + token % kPageTokens) * dim;
  }

  AlignedBytes memory_;
};

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
  for (int32_t s = 0; s < plan.num_sequences; ++s) {
    const SequenceStep& step = plan.sequences[s];
    for (int64_t i = 0; i < step.q_len * heads * dim; ++i) {
      const int64_t token = i / (heads * dim);
      const int64_t to =
          kv_index(plan, s, start_of(step) + token, i / dim % heads, heads, dim) + i % dim;
      const int64_t from = step.first_row * heads * dim + i;
      store(keys, to, element(k, from));
      store(values, to, element(v, from));
    }
  }
}

void ReferenceDevice::attention(const StepPlan& plan, const AttentionWeights& weights,
                                const KvLayer& cache, ConstTensorView q, TensorView core) {
  const int64_t kv_heads = weights.num_kv_heads;
  const int64_t dim = weights.head_dim;
  const ConstTensorView keys(cache.k, cache.dtype, Shape{1});
  const ConstTensorView values(cache.v, cache.dtype, Shape{1});
  std::vector<double> k, v, head(static_cast<size_t>(dim));
  for (int32_t s = 0; s < plan.num_sequences; ++s) {
    const SequenceStep& step = plan.sequences[s];
    for (int64_t h = 0; h < weights.num_heads; ++h) {
      const int64_t kv_head = h / (weights.num_heads / kv_heads);
      k.clear();
      v.clear();
      for (int64_t i = 0; i < step.kv_len * dim; ++i) {
        const int64_t at = kv_index(plan, s, i / dim, kv_head, kv_heads, dim) + i % dim;
        k.push_back(element(keys, at));
        v.push_back(element(values, at));
      }
      for (int64_t t = 0; t < step.q_len; ++t) {
        const int64_t at = ((step.first_row + t) * weights.num_heads + h) * dim;
        reference::attention(q.as<float>() + at, k.data(), v.data(), start_of(step) + t + 1, dim,
                             head.data());
        for (int64_t i = 0; i < dim; ++i) store(core, at + i, head[static_cast<size_t>(i)]);
      }
    }
  }
}

void ReferenceDevice::short_conv(const StepPlan& plan, const DeltaNetWeights& weights,
                                 const StateLayer& cache, ConstTensorView x, TensorView out) {
  NIBBLE_CHECK(plan.num_state_saves == 0, "the reference device saves no states");
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
    for (int64_t i = 0; i < columns * channels; ++i) {
      store(window(step.state_write_slot), i, rows[static_cast<size_t>(step.q_len * channels + i)]);
    }
  }
}

void ReferenceDevice::gated_delta(const StepPlan& plan, const DeltaNetWeights& weights,
                                  const StateLayer& cache, ConstTensorView qkv, ConstTensorView g,
                                  ConstTensorView beta, TensorView core) {
  const int64_t dk = weights.key_head_dim;
  const int64_t dv = weights.value_head_dim;
  const int64_t keys = weights.num_key_heads * dk;
  std::vector<double> head(static_cast<size_t>(dv));
  for (int32_t s = 0; s < plan.num_sequences; ++s) {
    const SequenceStep& step = plan.sequences[s];
    for (int64_t h = 0; h < weights.num_value_heads; ++h) {
      const int64_t key_head = h / (weights.num_value_heads / weights.num_key_heads);
      const float* old =
          cache.recurrent + step.state_read_slot * cache.recurrent_stride + h * dk * dv;
      std::vector<double> state(static_cast<size_t>(dk * dv), 0.0);
      if (step.state_read_slot != kZeroState) state.assign(old, old + dk * dv);
      for (int64_t r = step.first_row; r < step.first_row + step.q_len; ++r) {
        const float* row = qkv.as<float>() + r * qkv.row_elements();
        const int64_t gate = r * weights.num_value_heads + h;
        const reference::DeltaToken token{.q = row + key_head * dk,
                                          .k = row + keys + key_head * dk,
                                          .v = row + 2 * keys + h * dv,
                                          .g = element(g, gate),
                                          .beta = element(beta, gate)};
        reference::gated_delta_step(token, dk, dv, state.data(), head.data());
        for (int64_t i = 0; i < dv; ++i) store(core, gate * dv + i, head[static_cast<size_t>(i)]);
      }
      float* next = cache.recurrent + step.state_write_slot * cache.recurrent_stride + h * dk * dv;
      for (size_t i = 0; i < state.size(); ++i) next[i] = static_cast<float>(state[i]);
    }
  }
}

}  // namespace

std::unique_ptr<device::Device> make_reference_device(ThreadPool&) {
  return std::make_unique<ReferenceDevice>();
}

std::vector<float> rope_table_rows(const formats::ModelConfig& config,
                                   const std::vector<int32_t>& rows, bool cosines) {
  const int64_t pairs = config.rotary_dim() / 2;
  std::vector<float> frequencies(static_cast<size_t>(pairs));
  cpu::rope_inverse_frequencies(config.rope_theta, config.rotary_dim(), frequencies.data());
  std::vector<float> table(static_cast<size_t>(2 * pairs)), out;
  for (const int32_t row : rows) {
    const int32_t position[3] = {row, row, row};
    cpu::RopeTableArgs args{.positions = position,
                            .inverse_frequencies = frequencies.data(),
                            .table = table.data(),
                            .rotary_dim = config.rotary_dim(),
                            .mrope_section = {}};
    for (size_t axis = 0; axis < 3; ++axis) {
      args.mrope_section[axis] = static_cast<int32_t>(config.mrope_section[axis]);
    }
    cpu::rope_table(args, 0, 1);
    for (int half = 0; half < 2; ++half) {
      const auto first = table.begin() + (cosines ? 0 : pairs);
      out.insert(out.end(), first, first + pairs);
    }
  }
  return out;
}

}  // namespace nibble::test
