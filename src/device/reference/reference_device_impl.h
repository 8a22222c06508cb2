// ReferenceDevice: the class behind make_reference_device.
//
// reference_device.cc: memory, rows-in, rows-out operations. reference_device_linear.cc: packing,
// matrix products, experts. reference_device_sequences.cc: operations that walk sequences
// (attention, convolution, delta rule). elements.h: how all of them read and write buffers.
#pragma once

#include "device/reference/reference_device.h"
#include "tensor/tensor.h"

#include <memory>
#include <string>

namespace nibble::device {

class ReferenceDevice final : public Device {
 public:
  ReferenceDevice(Arithmetic arithmetic, ThreadPool& pool) : Device(arithmetic), pool_(pool) {}

  std::string description() const override { return "reference"; }
  bool shares_host_memory() const override { return true; }
  Result<std::unique_ptr<Memory>> allocate(size_t bytes, const std::string& purpose) override;
  void upload(std::byte* destination, std::span<const std::byte> host) override;
  void download(std::span<std::byte> host, const std::byte* source) override;
  void copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void synchronize() override {}
  size_t workspace_bytes(const WorkspaceSpec& spec) const override;
  Result<void> set_workspace(const WorkspaceSpec& spec) override;

  int pack_threads() const override { return 4; }  // as on a GPU, so that tests load in parallel
  // Packed form: the stored bytes, codes and then block scales.
  size_t packed_linear_bytes(WeightFormat format, int64_t out_features,
                             int64_t in_features) const override;
  PackedLinear pack_linear(const formats::LinearWeight& weight, std::byte* destination) override;
  size_t packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                              int64_t in_features) const override;
  void pack_gate_up(const formats::LinearWeight& gate, const formats::LinearWeight& up,
                    std::byte* destination) override;

  // These end the program: an oracle has no need of them.
  float max_magnitude(ConstTensorView x) override;
  void quantize_nvfp4(ConstTensorView x, float scale, const formats::Nvfp4Rules& rules,
                      uint8_t* codes, uint8_t* block_scales) override;
  void sample(const SamplePlan& plan, ConstTensorView logits, SampleResult* results) override;

  void embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) override;
  void rms_norm(ConstTensorView x, const float* weight, TensorView out) override;
  void linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
              Accumulate accumulate) override;
  void qk_norm_rope(const StepPlan& plan, const AttentionWeights& weights, ConstTensorView q_gate,
                    TensorView q, TensorView gate, TensorView k) override;
  void kv_store(const StepPlan& plan, const AttentionWeights& weights, const KvLayer& cache,
                ConstTensorView k, ConstTensorView v) override;
  void attention(const StepPlan& plan, const AttentionWeights& weights, const KvLayer& cache,
                 ConstTensorView q, TensorView core) override;
  void sigmoid_gate(ConstTensorView x, ConstTensorView gate, TensorView out) override;
  void short_conv(const StepPlan& plan, const DeltaNetWeights& weights, const StateLayer& cache,
                  ConstTensorView x, TensorView out) override;
  void delta_gates(const DeltaNetWeights& weights, TensorView a_to_g,
                   TensorView b_to_beta) override;
  void gated_delta(const StepPlan& plan, const DeltaNetWeights& weights, const StateLayer& cache,
                   ConstTensorView qkv, ConstTensorView g, ConstTensorView beta,
                   TensorView core) override;
  void gated_rms_norm(const DeltaNetWeights& weights, ConstTensorView core, ConstTensorView z,
                      TensorView out) override;
  void moe_route(ConstTensorView logits, const int32_t* forced, TensorView experts,
                 TensorView expert_weights) override;
  void moe_gate_up(const StepPlan& plan, ConstTensorView x, const PackedExperts& gate_up,
                   ConstTensorView experts, TensorView out) override;
  void moe_down_combine(const StepPlan& plan, ConstTensorView slots, const PackedExperts& down,
                        ConstTensorView experts, ConstTensorView expert_weights,
                        TensorView out) override;
  void moe_add_shared(ConstTensorView routed, ConstTensorView shared, TensorView gate_logit,
                      TensorView out, Accumulate accumulate) override;
  void add(ConstTensorView x, TensorView out, Accumulate accumulate) override;
  void gather_rows(ConstTensorView x, const int32_t* rows, TensorView out) override;

 private:
  ThreadPool& pool_;
  AlignedBytes memory_;
};

}  // namespace nibble::device
