// Device: the seam between the model and the hardware. Block operations on views, queued memory
// operations.
//
// The decoder calls block operations only. Their default (device/composed_blocks.cc) is written
// once in small operations that every device has; a device overrides a block where a fused one
// pays, and a test holds the two together. With an Observer in the plan the composed path runs.
// Operations are queued: they return before the work is done, and synchronize() waits. They have no
// error path: shapes are checked with NIBBLE_CHECK, memory is taken at start-up. One engine thread
// calls a device.
#pragma once

#include "base/result.h"
#include "base/thread_pool.h"
#include "device/input_moments.h"
#include "device/layer_cache.h"
#include "device/sample_plan.h"
#include "device/step_plan.h"
#include "device/weights.h"
#include "formats/linear_weight.h"
#include "formats/nvfp4_rules.h"
#include "tensor/tensor_view.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace nibble::device {

/// f32: linear inputs stay f32 (goldens, calibration). exact: linear inputs are BF16, f32
/// accumulation (serving).
enum class Arithmetic { f32, exact };
/// What large steps, those with more rows than sequences, round the inputs of experts and of
/// mixers' projections to (NUMERICS.md 5). full: as the arithmetic says. nvfp4: inputs of NVFP4
/// weights only.
enum class Activations { full, fp8, nvfp4 };

/// Whether a block writes its output or adds it.
enum class Accumulate { replace, add };

/// Sizes of the activation buffers: the largest step and the largest block dimensions of the model.
struct WorkspaceSpec {
  int64_t max_rows = 0;
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  int64_t attention_heads = 0, attention_kv_heads = 0, head_dim = 0, rotary_dim = 0;
  int64_t key_heads = 0, value_heads = 0, key_head_dim = 0, value_head_dim = 0;
  int64_t num_experts = 0, num_experts_per_tok = 0;
  int64_t moe_intermediate_size = 0, shared_intermediate_size = 0;
  double rope_theta = 0;
  int32_t mrope_section[3] = {0, 0, 0};
  float rms_norm_eps = 1e-6f;
};

/// Device memory owned by the holder; freed on destruction.
class Memory {
 public:
  virtual ~Memory() = default;
  virtual std::byte* data() const = 0;
  virtual size_t bytes() const = 0;
};

/// Sums over a matrix: squared differences to the stored values, squared values.
struct WeightError {
  double difference = 0;
  double magnitude = 0;
};

class Device {
 public:
  virtual ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // ---- Identity and memory
  // -----------------------------------------------------------------------------------
  /// "cpu avx512_dot, 2 threads".
  virtual std::string description() const = 0;
  Arithmetic arithmetic() const { return arithmetic_; }
  Activations activations() const { return activations_; }
  /// Element type of linear inputs and of the convolution window: f32 or bf16.
  DType activation_dtype() const {
    return arithmetic_ == Arithmetic::f32 ? DType::f32 : DType::bf16;
  }
  /// True if host pointers may be used as device pointers (the CPU): mapped files are then read in
  /// place.
  virtual bool shares_host_memory() const = 0;
  /// Zeroed memory; exhausted when there is none. `purpose` names it in the error.
  virtual Result<std::unique_ptr<Memory>> allocate(size_t bytes, const std::string& purpose) = 0;
  virtual void upload(std::byte* destination, std::span<const std::byte> host) = 0;
  virtual void download(std::span<std::byte> host, const std::byte* source) = 0;
  /// Queued copy inside the device: state slots, pages, snapshots.
  virtual void copy(std::byte* destination, const std::byte* source, size_t bytes) = 0;
  virtual void synchronize() = 0;
  /// Bytes that set_workspace will take.
  virtual size_t workspace_bytes(const WorkspaceSpec& spec) const = 0;
  virtual Result<void> set_workspace(const WorkspaceSpec& spec) = 0;
  const WorkspaceSpec& workspace_spec() const { return spec_; }
  /// Runs `queue_step`, which queues all work of one step for `plan`. A device may keep what it
  /// queued and replay it for later steps of the same shape: then the plan's buffers must be those
  /// of the first such step. With an Observer it always runs.
  virtual void run_step(const StepPlan& /*plan*/, const std::function<void()>& queue_step) {
    queue_step();
  }
  /// Shows a tensor to the plan's Observer on the host; nothing without one.
  void report(const StepPlan& plan, int layer, std::string_view name, ConstTensorView tensor);

  // ---- Weights: repacked once into the layout the kernels read
  // ---------------------------------------------------
  /// Threads that may call pack_linear, pack_gate_up and upload at once while weights are loaded;
  /// synchronize() ends the loading.
  virtual int pack_threads() const { return 1; }
  virtual size_t packed_linear_bytes(WeightFormat format, int64_t out_features,
                                     int64_t in_features) const = 0;
  /// Packs one matrix to `destination` (packed_linear_bytes, 64-byte aligned device memory).
  virtual PackedLinear pack_linear(const formats::LinearWeight& weight, std::byte* destination) = 0;
  /// Packed gate and up rows of one expert; both [I, H] in one format.
  virtual size_t packed_gate_up_bytes(WeightFormat format, int64_t intermediate,
                                      int64_t in_features) const = 0;
  virtual void pack_gate_up(const formats::LinearWeight& gate, const formats::LinearWeight& up,
                            std::byte* destination) = 0;

  // ---- Quantization: host matrices [N][K] in, host bytes out, complete on return -------------
  // Defaults: device/host_quantization.cc, rows spread by host_tasks. Matrices are BF16; K % 16 ==
  // 0 for NVFP4.
  /// Runs task(0..count-1, worker) on the host threads this device has; returns when all are done.
  virtual void host_tasks(int64_t count, TaskRef task);
  /// Largest magnitude; NaN if an element is NaN.
  virtual float max_magnitude(ConstTensorView matrix);
  /// NVFP4 by the max rule (formats/nvfp4_encode.h): codes [N][K/2], block_scales [N][K/16].
  virtual void quantize_nvfp4(ConstTensorView matrix, float tensor_scale,
                              const formats::Nvfp4Rules& rules, uint8_t* codes,
                              uint8_t* block_scales);
  /// Block scales by search (formats/nvfp4_search.h): block_scales [N][K/16].
  void search_nvfp4_scales(ConstTensorView matrix, const formats::ScaleSearch& search,
                           uint8_t* block_scales);
  /// The same for one row, with the bytes of formats::search_nvfp4_scales; any thread.
  virtual void search_row(std::span<const float> row, const formats::ScaleSearch& search,
                          uint8_t* block_scales) const;
  /// NVFP4 codes [N][K/2] for given block scales.
  virtual void encode_nvfp4(ConstTensorView matrix, float tensor_scale, const uint8_t* block_scales,
                            uint8_t* codes);
  /// sums += sum of weights[i] rows[i] rows[i]^T; rows [n][K] f32.
  void add_moments(std::span<const float> rows, std::span<const float> weights, InputMoments* sums);
  /// `mean` (its weight is not looked at; trace above 0) with `damping` times the mean of its
  /// diagonal added to the diagonal.
  FactoredMoments factor_moments(const InputMoments& mean, double damping);
  /// Codes [N][K/2] and block scales [N][K/16] by rounding with error feedback: small weighted
  /// error of each row's products with the inputs, by spec nvfp4.md 4.7 and sweeps of ours.
  void round_nvfp4(ConstTensorView matrix, float tensor_scale, const FactoredMoments& moments,
                   uint8_t* codes, uint8_t* block_scales);
  /// The steps of these three (formats/nvfp4_feedback.h), with the bits of their plain form; any
  /// thread.
  virtual void add_tile_products(const float* a, const float* b, int64_t count, float* sums) const;
  virtual formats::RoundedBlock round_block(const formats::BlockTarget& target) const;
  /// FP8 with one scale per tensor (formats/fp8.h): codes [N][K].
  virtual void quantize_fp8(ConstTensorView matrix, float weight_scale,
                            formats::ScalarDivision division, uint8_t* codes);
  /// Squared error of `stored` against the matrix it was made from. The sums do not depend on the
  /// number of threads.
  virtual WeightError weight_error(ConstTensorView matrix, const formats::LinearWeight& stored);

  // ---- Block operations
  // ------------------------------------------------------------------------------------------
  // hidden, residual, out: [rows][H] f32. With Accumulate::add, out may be residual itself.
  virtual void embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) = 0;
  virtual void attention_block(const StepPlan& plan, const AttentionWeights& weights,
                               const KvLayer& cache, ConstTensorView residual, TensorView out,
                               Accumulate accumulate);
  virtual void delta_net_block(const StepPlan& plan, const DeltaNetWeights& weights,
                               const StateLayer& cache, ConstTensorView residual, TensorView out,
                               Accumulate accumulate);
  virtual void moe_block(const StepPlan& plan, const MoeWeights& weights, ConstTensorView residual,
                         TensorView out, Accumulate accumulate);
  /// Logits of rows [first, first + logits.rows()) of plan.logit_rows; logits: [n][V] f32. If
  /// normed_out is not empty it receives all rows after the final norm ([rows][H] f32; the draft
  /// layer's input).
  virtual void head(const StepPlan& plan, const HeadWeights& weights, ConstTensorView hidden,
                    TensorView normed_out, int64_t first, TensorView logits);
  /// results: host memory, [plan.num_rows]; complete after synchronize().
  virtual void sample(const SamplePlan& plan, ConstTensorView logits, SampleResult* results) = 0;

  // ---- Several ranks: queued, nothing to do for one
  // --------------------------------------------------------------
  virtual void reduce(TensorView /*out*/) {}
  virtual void gather(TensorView /*logits*/) {}

  // ---- Small operations (rows M = rows of the views; act = activation_dtype())
  // -----------------------------------
  /// out[M,N] act: zero-centred RMSNorm, x * rsqrt(mean(x^2) + eps) * (1 + w). x [M,N] f32, w [N].
  virtual void rms_norm(ConstTensorView x, const float* weight, TensorView out) = 0;
  /// out[M,N] (f32, or bf16 without add) = x[M,K] act * W^T.
  virtual void linear(ConstTensorView x, const PackedLinear& weight, TensorView out,
                      Accumulate accumulate) = 0;
  /// linear() of a mixer's projections q, k, v, o, in_proj_qkv, in_proj_z and out_proj: what
  /// activations() is about.
  virtual void project(const StepPlan& /*plan*/, ConstTensorView x, const PackedLinear& weight,
                       TensorView out, Accumulate accumulate) {
    linear(x, weight, out, accumulate);
  }
  /// Splits q_gate [M][heads][2][D] f32 into q [M][heads*D] (normed, rotated) and gate
  /// [M][heads*D]; norms and rotates k [M][kv_heads*D] in place.
  virtual void qk_norm_rope(const StepPlan& plan, const AttentionWeights& weights,
                            ConstTensorView q_gate, TensorView q, TensorView gate,
                            TensorView k) = 0;
  /// Writes k and v [M][kv_heads*D] f32 into the pages in the cache's dtype.
  virtual void kv_store(const StepPlan& plan, const AttentionWeights& weights, const KvLayer& cache,
                        ConstTensorView k, ConstTensorView v) = 0;
  /// core [M][heads*D] f32: causal softmax attention over the pages, key blocks of 64 in order.
  virtual void attention(const StepPlan& plan, const AttentionWeights& weights,
                         const KvLayer& cache, ConstTensorView q, TensorView core) = 0;
  /// out act = x * sigmoid(gate), elementwise, f32 inputs.
  virtual void sigmoid_gate(ConstTensorView x, ConstTensorView gate, TensorView out) = 0;
  /// out [M][C] f32: causal depthwise convolution and SiLU of x [M][C] act with the window of the
  /// read slots; writes the newest columns to the write slots and the requested saves.
  virtual void short_conv(const StepPlan& plan, const DeltaNetWeights& weights,
                          const StateLayer& cache, ConstTensorView x, TensorView out) = 0;
  /// g = -exp(a_log) softplus(a + dt_bias), beta = sigmoid(b); in place over a and b, [M][value
  /// heads] f32.
  virtual void delta_gates(const DeltaNetWeights& weights, TensorView a_to_g,
                           TensorView b_to_beta) = 0;
  /// core [M][value heads * dv] f32: L2-normed q and k, gated delta rule; chunked form (64) for
  /// prefill rows, one-step form for decode rows; reads and writes state slots, fills the requested
  /// saves.
  virtual void gated_delta(const StepPlan& plan, const DeltaNetWeights& weights,
                           const StateLayer& cache, ConstTensorView qkv, ConstTensorView g,
                           ConstTensorView beta, TensorView core) = 0;
  /// out [M][value heads * dv] act: rms_norm(core) * w * silu(z), per head.
  virtual void gated_rms_norm(const DeltaNetWeights& weights, ConstTensorView core,
                              ConstTensorView z, TensorView out) = 0;
  /// Top experts by logit (ties: lowest index) in falling order, weights = softmax over the chosen.
  /// experts [M][K] i32, expert_weights [M][K] f32. forced: [M][K] choice to use instead, or null.
  virtual void moe_route(ConstTensorView logits, const int32_t* forced, TensorView experts,
                         TensorView expert_weights) = 0;
  /// out [M*K][I] act = silu(gate) * up of the chosen expert of each (row, slot). experts empty:
  /// bank of one, K = 1. plan: of the step the rows are of.
  virtual void moe_gate_up(const StepPlan& plan, ConstTensorView x, const PackedExperts& gate_up,
                           ConstTensorView experts, TensorView out) = 0;
  /// out [M][H] f32 = sum over slots, in slot order, of weight * down(slots). experts empty: out =
  /// down(slots).
  virtual void moe_down_combine(const StepPlan& plan, ConstTensorView slots,
                                const PackedExperts& down, ConstTensorView experts,
                                ConstTensorView expert_weights, TensorView out) = 0;
  /// out (+)= routed + sigmoid(gate_logit) * shared; gate_logit [M][1]. sigmoid is written back to
  /// gate_logit.
  virtual void moe_add_shared(ConstTensorView routed, ConstTensorView shared, TensorView gate_logit,
                              TensorView out, Accumulate accumulate) = 0;
  /// out (+)= x, f32 of equal shape.
  virtual void add(ConstTensorView x, TensorView out, Accumulate accumulate) = 0;
  /// out[i] = x[rows[i]], f32.
  virtual void gather_rows(ConstTensorView x, const int32_t* rows, TensorView out) = 0;

 protected:
  explicit Device(Arithmetic arithmetic, Activations activations = Activations::full)
      : arithmetic_(arithmetic), activations_(activations) {}

  /// Named activation buffers of one step, views of max_rows rows; see composed_blocks.cc for who
  /// uses which.
  struct Workspace {
    TensorView norm;  // act [R][H]
    TensorView q_gate, q, gate, k, v, attention_core;  // f32
    TensorView gated;  // act [R][heads*D]
    TensorView qkv_pre;  // act [R][C]
    TensorView qkv, z, a, b, delta_core;  // f32
    TensorView delta_normed;  // act [R][value heads * dv]
    TensorView router_logits, expert_weights, experts;  // f32, f32, i32
    TensorView slots, shared_slots;  // act [R*K][I], [R][shared I]
    TensorView routed, shared, shared_gate;  // f32 [R][H], [R][H], [R][1]
    TensorView head_rows, head_norm;  // f32 [R][H], act [R][H]
  };
  /// Lays the workspace out from `base` (null: only counts) and returns the bytes it needs.
  size_t layout_workspace(const WorkspaceSpec& spec, std::byte* base, Workspace* workspace) const;

  WorkspaceSpec spec_;
  Workspace workspace_;

 private:
  /// out (+)= x W^T; with an Observer through a buffer of its own, reported as "mixer_out".
  void project_out(const StepPlan& plan, int layer, ConstTensorView x, const PackedLinear& weight,
                   TensorView out, Accumulate accumulate);

  Arithmetic arithmetic_;
  Activations activations_;
};

}  // namespace nibble::device
