// Memory, workspace and row-wise operations of the CUDA device.
#include "device/cuda/cuda_device.h"

#include "base/thread_pool.h"
#include "device/cuda/cuda_device_impl.h"
#include "kernels/cuda/greedy.h"
#include "kernels/cuda/read_bandwidth.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace nibble::device {
namespace {

/// Rows of the widest fused input projection: qkv, z, b and a of a DeltaNet layer.
constexpr int64_t kMaxProjectionRows = 12352;

class CudaMemory : public Memory {
 public:
  CudaMemory(CudaBytes data, size_t bytes) : data_(std::move(data)), bytes_(bytes) {}
  std::byte* data() const override { return static_cast<std::byte*>(data_.get()); }
  size_t bytes() const override { return bytes_; }

 private:
  CudaBytes data_;
  size_t bytes_;
};

Result<CudaBytes> zeroed(size_t bytes, const std::string& purpose) {
  void* data = nullptr;
  cudaError_t status = cudaMalloc(&data, std::max<size_t>(bytes, 1));
  CudaBytes memory(data);
  if (status == cudaSuccess) status = cudaMemset(data, 0, bytes);
  if (status == cudaSuccess) return memory;
  return cuda_error(status,
                    "allocating " + std::to_string(bytes) + " bytes of GPU memory for " + purpose);
}

// Hands out 256-byte aligned pieces; with a null base it only counts.
class Pieces {
 public:
  explicit Pieces(std::byte* base) : base_(base) {}
  template <typename T>
  void take(T*& out, int64_t count) {
    out = base_ == nullptr ? nullptr : reinterpret_cast<T*>(base_ + used_);
    used_ += (static_cast<size_t>(count) * sizeof(T) + 255) / 256 * 256;
  }
  size_t used() const { return used_; }

 private:
  std::byte* base_;
  size_t used_ = 0;
};

/// Whether large steps may take the grouped expert products (kernels/cuda/prefill.h).
bool has_prefill_shapes(const WorkspaceSpec& spec) {
  return spec.hidden_size == cuda::kHidden && spec.moe_intermediate_size == cuda::kInner &&
         spec.shared_intermediate_size == cuda::kInner && spec.num_experts == cuda::kExperts &&
         spec.num_experts_per_tok == cuda::kRouted;
}

int64_t attention_width(const WorkspaceSpec& spec) {
  return spec.attention_heads * spec.head_dim;
}
int64_t value_width(const WorkspaceSpec& spec) {
  return spec.value_heads * spec.value_head_dim;
}
/// Outputs of the widest mixer projection: hidden, queries with their gates, q, k and v.
int64_t largest_output(const WorkspaceSpec& spec) {
  const int64_t keys = 2 * spec.key_heads * spec.key_head_dim;
  return std::max({spec.hidden_size, 2 * attention_width(spec), keys + value_width(spec)});
}

void take_table(Pieces& pieces, cuda::RoutingTable& table, int64_t pairs, int32_t experts) {
  pieces.take(table.first, experts + 1);
  pieces.take(table.pairs, pairs);
  pieces.take(table.active, experts);
  pieces.take(table.counts, 8);
}

}  // namespace

Result<CudaDeviceInfo> cuda_device_info(int ordinal) {
  int count = 0;
  const cudaError_t found = cudaGetDeviceCount(&count);
  if (found != cudaSuccess) return cuda_error(found, "looking for a GPU");
  if (ordinal < 0 || ordinal >= count) {
    return Error{ErrorCode::unsupported, "cuda:" + std::to_string(ordinal) + ": this machine has " +
                                             std::to_string(count) + " GPUs"};
  }
  cudaDeviceProp properties = {};
  cudaError_t status = cudaGetDeviceProperties(&properties, ordinal);
  if (status != cudaSuccess) return cuda_error(status, "reading the GPU's properties");
  CudaDeviceInfo info;
  info.name = properties.name;
  info.compute_major = properties.major;
  info.compute_minor = properties.minor;
  info.multiprocessors = properties.multiProcessorCount;
  info.shared_bytes = properties.sharedMemPerBlockOptin;
  status = cudaSetDevice(ordinal);
  if (status == cudaSuccess) status = cudaMemGetInfo(&info.free_bytes, &info.total_bytes);
  if (status != cudaSuccess) return cuda_error(status, "opening the GPU");
  return info;
}

Result<double> cuda_read_bandwidth(int ordinal) {
  NIBBLE_ASSIGN_OR_RETURN(const CudaDeviceInfo info, cuda_device_info(ordinal));
  const double bytes_per_second = cuda::read_bandwidth();
  if (bytes_per_second > 0) return bytes_per_second;
  return Error{ErrorCode::exhausted, info.name + ": no 4 GiB to measure the read bandwidth with"};
}

bool has_fp8_activations(const CudaDeviceInfo& info) {
  return info.compute_major == 9 && info.compute_minor == 0;
}

Result<std::unique_ptr<Device>> make_cuda_device(Arithmetic arithmetic,
                                                 const CudaOptions& options) {
  NIBBLE_ASSIGN_OR_RETURN(CudaDeviceInfo info, cuda_device_info(options.ordinal));
  if (!cuda::has_code_for_device()) {
    return Error{ErrorCode::unsupported,
                 info.name + " has compute capability " + std::to_string(info.compute_major) + "." +
                     std::to_string(info.compute_minor) + ", for which this build has no kernels"};
  }
  if (options.activations != Activations::full && arithmetic != Arithmetic::exact) {
    return Error{ErrorCode::invalid_argument,
                 "--activations: found --arithmetic f32, wanted exact"};
  }
  if (options.activations == Activations::fp8 && !has_fp8_activations(info)) {
    return Error{ErrorCode::unsupported, "--activations fp8: found " + info.name +
                                             " of compute capability " +
                                             std::to_string(info.compute_major) + "." +
                                             std::to_string(info.compute_minor) + ", wanted 9.0"};
  }
  auto device = std::make_unique<CudaDevice>(arithmetic, options, std::move(info));
  NIBBLE_RETURN_IF_ERROR(device->open());
  return std::unique_ptr<Device>(std::move(device));
}

cuda::Element cuda_element(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return cuda::Element::f32;
    case DType::bf16:
      return cuda::Element::bf16;
    case DType::f8_e4m3:
      return cuda::Element::f8_e4m3;
    default:
      NIBBLE_CHECK(false, "no kernel reads this type", dtype_name(dtype));
      return cuda::Element::f32;
  }
}

CudaDevice::CudaDevice(Arithmetic arithmetic, const CudaOptions& options, CudaDeviceInfo info)
    : Device(arithmetic, options.activations), ordinal_(options.ordinal), info_(std::move(info)) {}

CudaDevice::~CudaDevice() = default;

Result<void> CudaDevice::open() {
  cudaError_t status = cudaSetDevice(ordinal_);
  if (status == cudaSuccess) {
    status = cudaStreamCreateWithFlags(stream_.out(), cudaStreamNonBlocking);
  }
  if (status == cudaSuccess) {
    status = cudaStreamCreateWithFlags(side_stream_.out(), cudaStreamNonBlocking);
  }
  for (CudaEvent* event : {&side_begin_, &side_end_}) {
    if (status == cudaSuccess) {
      status = cudaEventCreateWithFlags(event->out(), cudaEventDisableTiming);
    }
  }
  if (status != cudaSuccess) return cuda_error(status, "opening " + info_.name);
  NIBBLE_RETURN_IF_ERROR(lanes_.open(ordinal_, stream_.get()));
  NIBBLE_RETURN_IF_ERROR(gemm_.open());
  if (has_decode_kernels()) cuda::prepare_decode();
  if (has_wgmma()) cuda::prepare_prefill();
  return {};
}

std::string CudaDevice::description() const {
  const char* rounded = activations() == Activations::fp8     ? ", FP8 activations"
                        : activations() == Activations::nvfp4 ? ", NVFP4 activations"
                                                              : "";
  return "cuda:" + std::to_string(ordinal_) + " " + info_.name + rounded;
}

Result<std::unique_ptr<Memory>> CudaDevice::allocate(size_t bytes, const std::string& purpose) {
  NIBBLE_ASSIGN_OR_RETURN(CudaBytes data, zeroed(bytes, purpose));
  // cudaMemset ran on the default stream; ours does not wait for that by itself.
  NIBBLE_CUDA_CHECK(cudaDeviceSynchronize());
  return std::unique_ptr<Memory>(std::make_unique<CudaMemory>(std::move(data), bytes));
}

void CudaDevice::upload(std::byte* destination, std::span<const std::byte> host) {
  lanes_.take()->push(destination, host);
}

void CudaDevice::download(std::span<std::byte> host, const std::byte* source) {
  if (host.empty()) return;
  NIBBLE_CUDA_CHECK(
      cudaMemcpyAsync(host.data(), source, host.size(), cudaMemcpyDeviceToHost, stream_.get()));
  NIBBLE_CUDA_CHECK(cudaStreamSynchronize(stream_.get()));
}

void CudaDevice::copy(std::byte* destination, const std::byte* source, size_t bytes) {
  NIBBLE_CUDA_CHECK(
      cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDeviceToDevice, stream_.get()));
}

size_t CudaDevice::layout_scratch(const WorkspaceSpec& spec, std::byte* base,
                                  Scratch* scratch) const {
  Pieces pieces(base);
  const int64_t rows = spec.max_rows, pairs = rows * spec.num_experts_per_tok;
  const auto heads = static_cast<int32_t>(spec.attention_heads);
  const auto head_dim = static_cast<int32_t>(spec.head_dim);
  pieces.take(scratch->attention,
              static_cast<int64_t>(cuda::attention_scratch_floats(rows, heads, head_dim)));
  if (has_wgmma() && head_dim == cuda::kPrefillHeadDim) {
    const auto page_bytes = cuda::prefill_attention_page_bytes(spec.attention_kv_heads);
    pieces.take(scratch->attention_tiles,
                attention_page_capacity(rows) * static_cast<int64_t>(page_bytes));
    pieces.take(scratch->attention_softmax, rows * heads * 8);
  }
  pieces.take(scratch->delta, static_cast<int64_t>(cuda::delta_scratch_floats(
                                  rows, static_cast<int32_t>(spec.value_heads))));
  pieces.take(scratch->prefill_delta, static_cast<int64_t>(cuda::prefill_delta_bytes(
                                          rows, static_cast<int32_t>(spec.key_heads),
                                          static_cast<int32_t>(spec.value_heads))));
  pieces.take(scratch->expert_outputs, pairs * spec.hidden_size * 4);
  pieces.take(scratch->gemm, static_cast<int64_t>(Gemm::kWorkspaceBytes));
  pieces.take(scratch->dequantized, kDequantizedBytes);
  pieces.take(scratch->sampling, rows * static_cast<int64_t>(cuda::kGreedyPartialBytes));
  pieces.take(scratch->rope_frequencies, spec.rotary_dim / 2 + 1);
  pieces.take(scratch->forced, pairs);
  take_table(pieces, scratch->routed, pairs, static_cast<int32_t>(spec.num_experts));
  take_table(pieces, scratch->shared, rows, 1);
  constexpr int64_t kRows = cuda::kMaxMmaRows, kPairs = kRows * (cuda::kRouted + 1);
  pieces.take(scratch->projection, kRows * kMaxProjectionRows);
  pieces.take(scratch->gated, kRows * cuda::kMixer);
  pieces.take(scratch->squares, kRows * 128);
  pieces.take(scratch->x, kRows * cuda::kMixer * 2);
  pieces.take(scratch->act, kPairs * cuda::kInner * 2);
  pieces.take(scratch->slot_outputs, kPairs * cuda::kHidden);
  pieces.take(scratch->router_logits, kRows * cuda::kLogitStride);
  pieces.take(scratch->expert_rows.entries, cuda::kExperts + 1);
  pieces.take(scratch->expert_rows.weights, kPairs);
  pieces.take(scratch->expert_rows.finished, 1);
  if (activations() == Activations::nvfp4) {
    const int64_t projection =
        rows * std::max({spec.hidden_size, attention_width(spec), value_width(spec)});
    const int64_t experts =
        std::max(pairs * spec.moe_intermediate_size, rows * spec.shared_intermediate_size);
    pieces.take(scratch->fp4, 2 * std::max(projection, experts));
  }
  if (activations() == Activations::fp8) {
    const int64_t outputs = largest_output(spec);
    pieces.take(scratch->fp8.rows,
                rows * std::max({spec.hidden_size, attention_width(spec), value_width(spec)}) * 2);
    pieces.take(scratch->fp8.row_scales, rows);
    pieces.take(scratch->fp8.weight_scales, outputs);
    pieces.take(scratch->fp8.ones, outputs);
  }
  if (!has_prefill_shapes(spec)) return pieces.used();
  const int64_t all_pairs = rows * (cuda::kRouted + 1);
  cuda::PrefillTable& table = scratch->prefill;
  pieces.take(scratch->permuted, rows * cuda::kHidden * 2);
  pieces.take(scratch->permuted_slots, all_pairs * cuda::kInner * 2);
  if (activations() == Activations::fp8) pieces.take(scratch->fp8.slot_scales, all_pairs);
  pieces.take(scratch->pair_outputs, all_pairs * cuda::kHidden * 2);
  pieces.take(scratch->prefill_logits, rows * cuda::kLogitStride);
  pieces.take(table.experts, all_pairs);
  pieces.take(table.weights, all_pairs);
  pieces.take(table.pairs, all_pairs);
  pieces.take(table.position, all_pairs);
  pieces.take(table.first, cuda::kExperts + 1);
  pieces.take(table.count, (cuda::kExperts + 1) * cuda::kCountStride);
  pieces.take(table.counts, 8);
  table.tile_capacity = cuda::prefill_tile_capacity(all_pairs);
  pieces.take(table.tiles, int64_t{4} * table.tile_capacity);
  return pieces.used();
}

size_t CudaDevice::workspace_bytes(const WorkspaceSpec& spec) const {
  Workspace ignored;
  Scratch also_ignored;
  return (layout_workspace(spec, nullptr, &ignored) + 255) / 256 * 256 +
         layout_scratch(spec, nullptr, &also_ignored);
}

Result<void> CudaDevice::set_workspace(const WorkspaceSpec& spec) {
  spec_ = spec;
  lanes_.close_extra();  // weights are loaded
  graphs_.clear();
  next_projection_.clear();
  workspace_memory_ = CudaBytes();
  NIBBLE_ASSIGN_OR_RETURN(workspace_memory_, zeroed(workspace_bytes(spec), "activations"));
  NIBBLE_CUDA_CHECK(cudaDeviceSynchronize());
  auto* base = static_cast<std::byte*>(workspace_memory_.get());
  const size_t named = layout_workspace(spec, base, &workspace_);
  layout_scratch(spec, base + (named + 255) / 256 * 256, &scratch_);
  std::vector<float> frequencies;
  for (int64_t j = 0; j < spec.rotary_dim / 2; ++j) {
    // As the original model computes it: the power rounded to f32, then its reciprocal in f32.
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(spec.rotary_dim);
    frequencies.push_back(
        1.0f / static_cast<float>(std::pow(spec.rope_theta, static_cast<double>(exponent))));
  }
  upload(reinterpret_cast<std::byte*>(scratch_.rope_frequencies),
         std::as_bytes(std::span(frequencies)));
  if (activations() == Activations::fp8) {
    const std::vector<float> ones(static_cast<size_t>(largest_output(spec)), 1.0f);
    upload(reinterpret_cast<std::byte*>(scratch_.fp8.ones), std::as_bytes(std::span(ones)));
  }
  void* pinned = nullptr;
  const cudaError_t status =
      cudaMallocHost(&pinned, static_cast<size_t>(spec.max_rows) * sizeof(SampleResult));
  if (status != cudaSuccess) return cuda_error(status, "pinned memory for sampling");
  sampled_ = PinnedBytes(pinned);
  return {};
}

cuda::Step CudaDevice::step_of(const StepPlan& plan) const {
  static_assert(sizeof(cuda::Sequence) == sizeof(SequenceStep) &&
                sizeof(cuda::StateSave) == sizeof(StateSave));
  return {.rows = plan.num_rows,
          .sequences = plan.num_sequences,
          .saves = plan.num_state_saves,
          .page_stride = plan.page_table_stride,
          .token_ids = plan.token_ids,
          .positions = plan.positions,
          .row_sequence = plan.row_sequence,
          .sequence = reinterpret_cast<const cuda::Sequence*>(plan.sequences),
          .page_table = plan.page_table,
          .save = reinterpret_cast<const cuda::StateSave*>(plan.state_saves)};
}

void CudaDevice::embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) {
  done_norm_ = {};
  const bool overridden = plan.override_index != nullptr;
  cuda::embed(
      {.table = table.data(),
       .table_type = cuda_element(table.dtype()),
       .token_ids = plan.token_ids,
       .override_index = plan.override_index,
       .overrides = plan.row_overrides.data(),
       .override_type = overridden ? cuda_element(plan.row_overrides.dtype()) : cuda::Element::f32,
       .out = hidden.as<float>(),
       .rows = plan.num_rows,
       .n = hidden.row_elements()},
      stream_.get());
}

void CudaDevice::rms_norm(ConstTensorView x, const float* weight, TensorView out) {
  cuda::rms_norm({.x = x.as<float>(),
                  .weight = weight,
                  .out = out.data(),
                  .out_type = cuda_element(out.dtype()),
                  .rows = x.rows(),
                  .n = x.row_elements(),
                  .eps = spec_.rms_norm_eps,
                  .row_index = nullptr},
                 stream_.get());
}

void CudaDevice::sigmoid_gate(ConstTensorView x, ConstTensorView gate, TensorView out) {
  cuda::sigmoid_gate({.x = x.as<float>(),
                      .gate = gate.as<float>(),
                      .out = out.data(),
                      .out_type = cuda_element(out.dtype()),
                      .count = x.shape().elements()},
                     stream_.get());
}

void CudaDevice::delta_gates(const DeltaNetWeights& weights, TensorView a_to_g,
                             TensorView b_to_beta) {
  cuda::delta_gates({.a_to_g = a_to_g.as<float>(),
                     .b_to_beta = b_to_beta.as<float>(),
                     .a_log = weights.a_log,
                     .dt_bias = weights.dt_bias,
                     .rows = a_to_g.rows(),
                     .heads = weights.num_value_heads},
                    stream_.get());
}

void CudaDevice::gated_rms_norm(const DeltaNetWeights& weights, ConstTensorView core,
                                ConstTensorView z, TensorView out) {
  cuda::gated_rms_norm({.core = core.as<float>(),
                        .z = z.as<float>(),
                        .weight = weights.norm,
                        .out = out.data(),
                        .out_type = cuda_element(out.dtype()),
                        .rows = core.rows(),
                        .heads = weights.num_value_heads,
                        .head_dim = weights.value_head_dim,
                        .eps = spec_.rms_norm_eps},
                       stream_.get());
}

void CudaDevice::moe_add_shared(ConstTensorView routed, ConstTensorView shared,
                                TensorView gate_logit, TensorView out, Accumulate accumulate) {
  cuda::moe_add_shared({.base = accumulate == Accumulate::add ? out.as<float>() : nullptr,
                        .routed = routed.as<float>(),
                        .shared = shared.as<float>(),
                        .gate_logit = gate_logit.as<float>(),
                        .out = out.as<float>(),
                        .rows = out.rows(),
                        .n = out.row_elements()},
                       stream_.get());
}

void CudaDevice::add(ConstTensorView x, TensorView out, Accumulate accumulate) {
  if (accumulate == Accumulate::replace) {
    copy(out.data(), x.data(), x.bytes());
    return;
  }
  cuda::add(x.as<float>(), out.as<float>(), x.shape().elements(), stream_.get());
}

void CudaDevice::gather_rows(ConstTensorView x, const int32_t* rows, TensorView out) {
  cuda::gather_rows(x.as<float>(), rows, out.data(), cuda_element(out.dtype()), out.rows(),
                    out.row_elements(), stream_.get());
}

}  // namespace nibble::device
