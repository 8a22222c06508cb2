// CpuDevice: the class behind make_cpu_device. Splits each small operation into tasks for the
// thread pool.
//
// cpu_device.cc: memory, rows-in, rows-out operations. cpu_device_sequences.cc: operations that
// walk sequences (attention, convolution, delta rule). cpu_device_linear.cc: packing and matrix
// products.
#pragma once

#include "device/cpu/cpu_device.h"
#include "device/host_sampler.h"
#include "kernels/cpu/linear/linear_plan.h"
#include "kernels/cpu/moe/moe_plan.h"
#include "kernels/cpu/operation_table.h"
#include "tensor/tensor.h"

#include <memory>
#include <string>
#include <vector>

namespace nibble::device {

class CpuDevice final : public Device {
 public:
  CpuDevice(Arithmetic arithmetic, IsaLevel level, ThreadPool& pool);

  std::string description() const override;
  bool shares_host_memory() const override { return true; }
  Result<std::unique_ptr<Memory>> allocate(size_t bytes, const std::string& purpose) override;
  void upload(std::byte* destination, std::span<const std::byte> host) override;
  void download(std::span<std::byte> host, const std::byte* source) override;
  void copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void synchronize() override {}
  size_t workspace_bytes(const WorkspaceSpec& spec) const override;
  Result<void> set_workspace(const WorkspaceSpec& spec) override;

  size_t packed_linear_bytes(WeightFormat format, int64_t out_features,
                             int64_t in_features) const override;
  PackedLinear pack_linear(const formats::LinearWeight& weight, std::byte* destination) override;
  size_t packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                              int64_t in_features) const override;
  void pack_gate_up(const formats::LinearWeight& gate, const formats::LinearWeight& up,
                    std::byte* destination) override;

  void host_tasks(int64_t count, TaskRef task) override { pool_.parallel_for(count, task); }
  void search_row(std::span<const float> row, const formats::ScaleSearch& search,
                  uint8_t* block_scales) const override;
  void add_tile_products(const float* a, const float* b, int64_t count, float* sums) const override;
  formats::RoundedBlock round_block(const formats::BlockTarget& target) const override;

  void embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) override;
  void sample(const SamplePlan& plan, ConstTensorView logits, SampleResult* results) override;

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
  /// Runs body(first, last) over row ranges of `rows`.
  template <typename Body>
  void for_rows(int64_t rows, const Body& body);
  /// Runs body(sequence, item, worker) over items(sequence) of every sequence of the plan.
  template <typename Items, typename Body>
  void for_sequence_items(const StepPlan& plan, const Items& items, const Body& body);
  /// Scratch of one worker, for whichever operation runs.
  float* scratch(int worker) const {
    return reinterpret_cast<float*>(scratch_.data() +
                                    static_cast<size_t>(worker) * worker_scratch_bytes_);
  }
  /// Bytes of everything set_workspace allocates.
  struct Sizes {
    size_t workspace, worker_scratch, packed_rows;
  };
  Sizes sizes_for(const WorkspaceSpec& spec) const;
  cpu::MoeShape routed_shape(const WorkspaceSpec& spec) const;
  cpu::MoeShape shared_shape(const WorkspaceSpec& spec) const;
  cpu::LinearArithmetic linear_arithmetic() const;
  /// The plan of the bank that `experts` addresses: empty means the shared expert.
  cpu::MoePlan& moe_plan(ConstTensorView experts) {
    return experts.empty() ? shared_plan_ : routed_plan_;
  }
  /// The state saves of a step in kernel terms.
  void collect_saves(const StepPlan& plan);

  IsaLevel level_;
  ThreadPool& pool_;
  const cpu::OperationKernels& kernels_;
  const cpu::LinearKernels& linear_kernels_;
  const cpu::MoeKernels& moe_kernels_;
  cpu::MoePlan routed_plan_;
  cpu::MoePlan shared_plan_;
  std::unique_ptr<HostSampler> sampler_;
  AlignedBytes workspace_memory_;
  AlignedBytes scratch_;
  size_t worker_scratch_bytes_ = 0;
  AlignedBytes packed_rows_;  // linear inputs or expert slots in the kernels' layout
  std::vector<int64_t> item_ends_;  // running totals of items per sequence
  std::vector<cpu::StateSaveRequest> saves_;
  std::vector<float> rope_frequencies_;
  std::vector<float> rope_table_;
};

/// Kernel-side name of a buffer's element type.
cpu::Element element_of(DType dtype);

}  // namespace nibble::device
