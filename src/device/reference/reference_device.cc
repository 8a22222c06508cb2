#include "device/reference/reference_device.h"

#include "device/reference/elements.h"
#include "device/reference/reference_device_impl.h"
#include "kernels/reference/delta.h"
#include "kernels/reference/elementwise.h"
#include "kernels/reference/embed.h"
#include "kernels/reference/norm.h"
#include "kernels/reference/route.h"

#include <cstring>

namespace nibble::device {
namespace {

class HostMemory : public Memory {
 public:
  explicit HostMemory(size_t bytes) : bytes_(bytes) {}
  std::byte* data() const override { return bytes_.data(); }
  size_t bytes() const override { return bytes_.size(); }

 private:
  AlignedBytes bytes_;
};

float unused() {
  NIBBLE_CHECK(false, "the reference device does not do this");
  return 0;
}

}  // namespace

std::unique_ptr<Device> make_reference_device(Arithmetic arithmetic, ThreadPool& pool) {
  return std::make_unique<ReferenceDevice>(arithmetic, pool);
}

Result<std::unique_ptr<Memory>> ReferenceDevice::allocate(size_t bytes,
                                                          const std::string& /*purpose*/) {
  return std::unique_ptr<Memory>(std::make_unique<HostMemory>(bytes));
}

void ReferenceDevice::upload(std::byte* destination, std::span<const std::byte> host) {
  if (!host.empty()) std::memcpy(destination, host.data(), host.size());
}

void ReferenceDevice::download(std::span<std::byte> host, const std::byte* source) {
  if (!host.empty()) std::memcpy(host.data(), source, host.size());
}

void ReferenceDevice::copy(std::byte* destination, const std::byte* source, size_t bytes) {
  std::memmove(destination, source, bytes);
}

size_t ReferenceDevice::workspace_bytes(const WorkspaceSpec& spec) const {
  Workspace ignored;
  return layout_workspace(spec, nullptr, &ignored);
}

Result<void> ReferenceDevice::set_workspace(const WorkspaceSpec& spec) {
  spec_ = spec;
  memory_ = AlignedBytes(workspace_bytes(spec));
  layout_workspace(spec, memory_.data(), &workspace_);
  return {};
}

float ReferenceDevice::max_magnitude(ConstTensorView /*x*/) {
  return unused();
}

void ReferenceDevice::quantize_nvfp4(ConstTensorView /*x*/, float /*scale*/,
                                     const formats::Nvfp4Rules& /*rules*/, uint8_t* /*codes*/,
                                     uint8_t* /*block_scales*/) {
  unused();
}

void ReferenceDevice::sample(const SamplePlan& /*plan*/, ConstTensorView /*logits*/,
                             SampleResult* /*results*/) {
  unused();
}
void ReferenceDevice::embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) {
  std::vector<double> row(static_cast<size_t>(hidden.row_elements()));
  for (int32_t r = 0; r < plan.num_rows; ++r) {
    const int32_t instead = plan.override_index == nullptr ? -1 : plan.override_index[r];
    const ConstTensorView& from = instead >= 0 ? plan.row_overrides : table;
    reference::embedding_row(from.data(), from.dtype(), instead >= 0 ? instead : plan.token_ids[r],
                             hidden.row_elements(), row.data());
    store_row(hidden, r, row);
  }
}

void ReferenceDevice::rms_norm(ConstTensorView x, const float* weight, TensorView out) {
  std::vector<double> row(static_cast<size_t>(x.row_elements()));
  for (int64_t r = 0; r < x.rows(); ++r) {
    reference::rms_norm(x.as<float>() + r * x.row_elements(), weight, x.row_elements(),
                        spec_.rms_norm_eps, row.data());
    store_row(out, r, row);
  }
}

void ReferenceDevice::sigmoid_gate(ConstTensorView x, ConstTensorView gate, TensorView out) {
  for (int64_t i = 0; i < x.shape().elements(); ++i) {
    store(out, i, element(x, i) * reference::sigmoid(element(gate, i)));
  }
}

void ReferenceDevice::delta_gates(const DeltaNetWeights& weights, TensorView a_to_g,
                                  TensorView b_to_beta) {
  for (int64_t i = 0; i < a_to_g.shape().elements(); ++i) {
    const int64_t head = i % weights.num_value_heads;
    store(
        a_to_g, i,
        reference::delta_decay(a_to_g.as<float>()[i], weights.a_log[head], weights.dt_bias[head]));
    store(b_to_beta, i, reference::sigmoid(element(b_to_beta, i)));
  }
}

void ReferenceDevice::gated_rms_norm(const DeltaNetWeights& weights, ConstTensorView core,
                                     ConstTensorView z, TensorView out) {
  const int64_t dv = weights.value_head_dim;
  std::vector<double> head(static_cast<size_t>(dv));
  for (int64_t h = 0; h < core.shape().elements() / dv; ++h) {
    reference::gated_rms_norm(core.as<float>() + h * dv, z.as<float>() + h * dv, weights.norm, dv,
                              spec_.rms_norm_eps, head.data());
    for (int64_t i = 0; i < dv; ++i) store(out, h * dv + i, head[static_cast<size_t>(i)]);
  }
}

void ReferenceDevice::moe_route(ConstTensorView logits, const int32_t* forced, TensorView experts,
                                TensorView expert_weights) {
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

void ReferenceDevice::moe_add_shared(ConstTensorView routed, ConstTensorView shared,
                                     TensorView gate_logit, TensorView out, Accumulate accumulate) {
  for (int64_t i = 0; i < out.shape().elements(); ++i) {
    const double gate = reference::sigmoid(element(gate_logit, i / out.row_elements()));
    const double base = accumulate == Accumulate::add ? element(out, i) : 0.0;
    store(out, i, base + element(routed, i) + gate * element(shared, i));
  }
  for (int64_t r = 0; r < gate_logit.rows(); ++r) {
    store(gate_logit, r, reference::sigmoid(element(gate_logit, r)));
  }
}

void ReferenceDevice::add(ConstTensorView x, TensorView out, Accumulate accumulate) {
  for (int64_t i = 0; i < out.shape().elements(); ++i) {
    store(out, i, element(x, i) + (accumulate == Accumulate::add ? element(out, i) : 0.0));
  }
}

void ReferenceDevice::gather_rows(ConstTensorView x, const int32_t* rows, TensorView out) {
  for (int64_t i = 0; i < out.shape().elements(); ++i) {
    const int64_t columns = out.row_elements();
    store(out, i, element(x, rows[i / columns] * columns + i % columns));
  }
}

}  // namespace nibble::device
