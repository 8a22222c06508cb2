// CudaDevice: the class behind make_cuda_device.
//
// cuda_device.cc: memory, workspace, row-wise operations. cuda_linear.cc: packing and dense
// products. cuda_fp8.cc, cuda_fp4.cc: products of rounded activations. cuda_moe.cc: experts.
// cuda_sequences.cc: operations that walk sequences. cuda_sample.cc: sampling. cuda_blocks.cc:
// fused blocks and captured steps.
#pragma once

#include "device/cuda/cuda_device.h"
#include "device/cuda/gemm.h"
#include "device/cuda/handles.h"
#include "device/cuda/upload_lanes.h"
#include "device/host_sampler.h"
#include "kernels/cuda/args.h"
#include "kernels/cuda/decode.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/moe.h"
#include "kernels/cuda/prefill.h"
#include "kernels/cuda/w4a4.h"

#include <initializer_list>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <tuple>
#include <vector>

namespace nibble {
class ThreadPool;
}

namespace nibble::device {

class CudaDevice final : public Device {
 public:
  CudaDevice(Arithmetic arithmetic, const CudaOptions& options, CudaDeviceInfo info);
  ~CudaDevice() override;
  Result<void> open();

  std::string description() const override;
  bool shares_host_memory() const override { return false; }
  Result<std::unique_ptr<Memory>> allocate(size_t bytes, const std::string& purpose) override;
  void upload(std::byte* destination, std::span<const std::byte> host) override;
  void download(std::span<std::byte> host, const std::byte* source) override;
  void copy(std::byte* destination, const std::byte* source, size_t bytes) override;
  void synchronize() override;
  size_t workspace_bytes(const WorkspaceSpec& spec) const override;
  Result<void> set_workspace(const WorkspaceSpec& spec) override;
  void run_step(const StepPlan& plan, const std::function<void()>& queue_step) override;

  int pack_threads() const override { return UploadLanes::kMaxLanes; }
  size_t packed_linear_bytes(WeightFormat format, int64_t out_features,
                             int64_t in_features) const override;
  PackedLinear pack_linear(const formats::LinearWeight& weight, std::byte* destination) override;
  size_t packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                              int64_t in_features) const override;
  void pack_gate_up(const formats::LinearWeight& gate, const formats::LinearWeight& up,
                    std::byte* destination) override;

  void embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) override;
  void sample(const SamplePlan& plan, ConstTensorView logits, SampleResult* results) override;
  void attention_block(const StepPlan& plan, const AttentionWeights& weights, const KvLayer& cache,
                       ConstTensorView residual, TensorView out, Accumulate accumulate) override;
  void delta_net_block(const StepPlan& plan, const DeltaNetWeights& weights,
                       const StateLayer& cache, ConstTensorView residual, TensorView out,
                       Accumulate accumulate) override;
  void moe_block(const StepPlan& plan, const MoeWeights& weights, ConstTensorView residual,
                 TensorView out, Accumulate accumulate) override;
  void head(const StepPlan& plan, const HeadWeights& weights, ConstTensorView hidden,
            TensorView normed_out, int64_t first, TensorView logits) override;

  void rms_norm(ConstTensorView x, const float* weight, TensorView out) override;
  void linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
              Accumulate accumulate) override;
  void project(const StepPlan& plan, ConstTensorView x, const PackedLinear& weight, TensorView out,
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
  static constexpr size_t kDecodeSharedBytes = size_t{227} << 10;

  /// Operands of FP8 products, with Activations::fp8 only; k and n: the largest of a projection.
  struct Fp8Scratch {
    std::byte* rows = nullptr;  // [rows][k] bytes, or BF16
    float* row_scales = nullptr;  // [rows]
    float* weight_scales = nullptr;  // [n]
    float* ones = nullptr;  // [n]
    float* slot_scales = nullptr;  // [pairs], of large steps
  };
  /// Buffers besides the named activations, views of one allocation.
  struct Scratch {
    float* attention = nullptr;
    std::byte* attention_tiles = nullptr;  // expanded pages of a pass of prefill attention
    float* attention_softmax = nullptr;  // [rows][heads][8]
    float* delta = nullptr;
    std::byte* prefill_delta = nullptr;
    std::byte* expert_outputs = nullptr;  // [pairs][H] f32
    std::byte* gemm = nullptr;
    std::byte* dequantized = nullptr;
    std::byte* sampling = nullptr;
    float* rope_frequencies = nullptr;
    int32_t* forced = nullptr;
    cuda::RoutingTable routed, shared;
    // Fused decode steps: up to cuda::kMaxMmaRows rows.
    float* projection = nullptr;  // [rows][12352]
    float* gated = nullptr;  // [rows][4096]
    float* squares = nullptr;  // [rows][32][4]
    std::byte* x = nullptr;  // bf16 [rows][4096]
    std::byte* act = nullptr;  // bf16 [rows * 9][512]
    float* slot_outputs = nullptr;  // [rows * 9][2048]
    float* router_logits = nullptr;  // [rows][272]
    cuda::ExpertRowsTable expert_rows;
    // Large steps, nine pairs a row.
    std::byte* permuted = nullptr;  // bf16 or E4M3 [rows][2048]
    std::byte* permuted_slots = nullptr;  // bf16 or E4M3 [pairs][512]
    std::byte* pair_outputs = nullptr;  // bf16 [pairs][2048]
    float* prefill_logits = nullptr;  // [rows][272]
    cuda::PrefillTable prefill;
    Fp8Scratch fp8;
    std::byte* fp4 = nullptr;  // rounded rows, with Activations::nvfp4 only
  };
  size_t layout_scratch(const WorkspaceSpec& spec, std::byte* base, Scratch* scratch) const;
  const cuda::RoutingTable& table_of(ConstTensorView experts) const {
    return experts.empty() ? scratch_.shared : scratch_.routed;
  }
  cuda::Step step_of(const StepPlan& plan) const;
  /// Pages of a pass of prefill attention: sums are carried on in memory once in four times the
  /// rows of a step.
  static int32_t attention_page_capacity(int64_t max_rows);
  cuda::PrefillAttentionArgs prefill_attention_args(const StepPlan& plan,
                                                    const AttentionWeights& weights,
                                                    const KvLayer& cache) const;
  /// Where a product runs, and for how many multiprocessors it is planned (0: all).
  struct GemmPlace {
    cudaStream_t stream;
    int32_t multiprocessors;
  };
  GemmPlace everywhere() const { return {stream_.get(), 0}; }
  /// The product of args by cuBLASLt, with W as it lies.
  static GemmArgs gemm_args(const cuda::LinearArgs& args, const GemmPlace& place);
  /// Rows of a weight converted at once, two bytes a value, and where their columns of y begin.
  static constexpr int64_t kDequantizedBytes = int64_t{64} << 20;
  static int64_t slice_rows(const cuda::Weight& weight) {
    return kDequantizedBytes / (2 * weight.k) / 16 * 16;
  }
  static std::byte* output_column(const cuda::LinearArgs& args, int64_t column) {
    return static_cast<std::byte*>(args.out) +
           column * (args.out_type == cuda::Element::bf16 ? 2 : 4);
  }
  void gemm(const cuda::LinearArgs& args, const GemmPlace& place);
  cuda::LinearArgs linear_args(ConstTensorView x, const PackedLinear& weight, TensorView out,
                               Accumulate accumulate) const;
  /// Whether cuBLASLt multiplies this weight as E4M3.
  static bool takes_fp8(const PackedLinear& weight) {
    return weight.in_features % 16 == 0 && weight.out_features % 16 == 0;
  }
  void to_fp8(ConstTensorView x);
  void round_rows(ConstTensorView x, void* out);
  void multiply_fp8(const cuda::LinearArgs& args, const GemmPlace& place);
  void multiply_rounded(const cuda::LinearArgs& args);
  cuda::Fp4Rows to_fp4(const void* x, int64_t rows, int64_t k);
  const void* round_to_fp4(const void* x, int64_t rows, int64_t k);
  void project_fp4(ConstTensorView x, const PackedLinear& weight, TensorView out,
                   Accumulate accumulate);
  void gate_up_fp4(cuda::MoeArgs args);
  void down_fp4(cuda::MoeArgs args);
  void multiply_gate_up(const cuda::MoeArgs& args);
  void multiply_down(const cuda::MoeArgs& args);
  void push_nvfp4_slices(const formats::LinearWeight& weight, std::byte* destination,
                         UploadLane& lane);
  /// Whether this GPU runs the kernels of large steps (sm_90a), and the fused decode kernels (the
  /// shared memory of sm_90 and sm_100). Others take the composed blocks and mma.sync.
  bool has_wgmma() const { return info_.compute_major == 9; }
  bool has_decode_kernels() const { return info_.shared_bytes >= kDecodeSharedBytes; }
  /// Whether this step rounds to E4M3, or to NVFP4, what activations() names.
  bool rounds_to_fp8(const StepPlan& plan) const {
    return activations() == Activations::fp8 && plan.num_rows > plan.num_sequences;
  }
  bool rounds_to_fp4(const StepPlan& plan) const {
    return activations() == Activations::nvfp4 && plan.num_rows > plan.num_sequences;
  }
  /// Whether the fused decode kernels serve this step.
  bool is_decode(const StepPlan& plan) const;
  void project_in(const StepPlan& plan, std::span<const PackedLinear* const> weights,
                  const float* norm_weight, ConstTensorView residual);
  void project_out(const StepPlan& plan, const PackedLinear& weight, const StateLayer* state,
                   TensorView out);
  cuda::WindowArgs window_of(const StepPlan& plan, const StateLayer* state) const;
  void follow(std::initializer_list<const PackedLinear*> projection, const PackedLinear& out);
  cuda::Later prefetch() const;
  void fused_experts(const StepPlan& plan, const MoeWeights& weights, TensorView hidden);
  bool is_prefill(const StepPlan& plan) const;
  bool can_prefill(const StepPlan& plan, const AttentionWeights& weights,
                   const KvLayer& cache) const;
  bool can_prefill(const StepPlan& plan, const DeltaNetWeights& weights,
                   const StateLayer& cache) const;
  void prefill_norm(const StepPlan& plan, const float* weight, ConstTensorView residual,
                    TensorView out, bool keeps_bf16);
  cuda::PrefillNormArgs mixer_norm_args(const StepPlan& plan, const float* weight,
                                        ConstTensorView residual, TensorView out) const;
  void project_norm(const StepPlan& plan, ConstTensorView norm, const PackedLinear& weight,
                    TensorView out);
  void prefill_attention_block(const StepPlan& plan, const AttentionWeights& weights,
                               const KvLayer& cache, ConstTensorView residual, TensorView out,
                               Accumulate accumulate);
  void prefill_delta_block(const StepPlan& plan, const DeltaNetWeights& weights,
                           const StateLayer& cache, ConstTensorView residual, TensorView out,
                           Accumulate accumulate);
  DType gate_dtype(const StepPlan& plan) const {
    return rounds_to_fp8(plan) ? DType::bf16 : DType::f32;
  }
  void project_z_around_scan(const StepPlan& plan, const DeltaNetWeights& weights,
                             ConstTensorView norm, TensorView z);
  void grouped_experts(const StepPlan& plan, const MoeWeights& weights, TensorView hidden);
  void grouped_products(const MoeWeights& weights, int64_t rows, bool fp8);
  void fused_experts_rows(const StepPlan& plan, const MoeWeights& weights, TensorView hidden);

  int ordinal_;
  CudaDeviceInfo info_;
  CudaStream stream_;
  /// The norm that workspace_.norm (and the E4M3 rows) hold already, done beside the last block's
  /// sums: for whom and of what. Every block that does not take it forgets it.
  struct DoneNorm {
    const float* weight = nullptr;
    const void* h = nullptr;
    int64_t rows = 0;
    bool operator==(const DoneNorm&) const = default;
  };
  DoneNorm done_norm_;
  CudaStream side_stream_;  // products beside kernels that leave multiprocessors idle
  CudaEvent side_begin_, side_end_;
  UploadLanes lanes_;
  Gemm gemm_;
  CudaBytes workspace_memory_;
  Scratch scratch_;

  struct PendingSample {
    SampleResult* results = nullptr;
    int32_t count = 0;
  };
  PinnedBytes sampled_;  // SampleResult[max_rows]
  PendingSample pending_;
  std::unique_ptr<ThreadPool> sample_pool_;
  std::unique_ptr<HostSampler> host_sampler_;
  std::vector<float> host_logits_;

  using StepKey = std::tuple<const void*, const void*, int32_t, int32_t, int32_t>;
  std::map<StepKey, CudaGraphExec> graphs_;
  /// The input projection that runs after a mixer, by the mixer's output projection: learned from
  /// the first step, so that decode can pull it into L2 early.
  std::map<const void*, std::span<const std::byte>> next_projection_;
  const void* last_out_ = nullptr;
};

/// Kernel-side name of a buffer's element type.
cuda::Element cuda_element(DType dtype);
cuda::Format cuda_format(WeightFormat format);
cuda::Bank cuda_bank(const PackedExperts& experts);

}  // namespace nibble::device
