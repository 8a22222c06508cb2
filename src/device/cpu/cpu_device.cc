#include "device/cpu/cpu_device.h"

#include "device/cpu/cpu_device_impl.h"
#include "formats/nvfp4_search.h"
#include "kernels/cpu/rope/rope_table.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace nibble::device {
namespace {

// Rows of one task of the row-wise operations: small enough to share, large enough to pay.
constexpr int64_t kRowsPerTask = 8;

// Anonymous zero pages, in large pages where the system grants them.
class HostMemory : public Memory {
 public:
  HostMemory(std::byte* data, size_t bytes) : data_(data), bytes_(bytes) {}
  ~HostMemory() override {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;
  std::byte* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  std::byte* data_;
  size_t bytes_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(Arithmetic arithmetic, IsaLevel level, ThreadPool& pool) {
  return std::make_unique<CpuDevice>(arithmetic, level, pool);
}

cpu::Element element_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return cpu::Element::f32;
    case DType::bf16:
      return cpu::Element::bf16;
    case DType::f8_e4m3:
      return cpu::Element::f8_e4m3;
    default:
      NIBBLE_CHECK(false, "no kernel reads this type", dtype_name(dtype));
      return cpu::Element::f32;
  }
}

CpuDevice::CpuDevice(Arithmetic arithmetic, IsaLevel level, ThreadPool& pool)
    : Device(arithmetic),
      level_(level),
      pool_(pool),
      kernels_(cpu::operation_kernels(static_cast<int>(level))),
      linear_kernels_(cpu::linear_kernels(static_cast<int>(level))),
      moe_kernels_(cpu::moe_kernels(static_cast<int>(level))) {}

std::string CpuDevice::description() const {
  return std::string("cpu ") + isa_level_name(level_) + ", " + std::to_string(pool_.num_threads()) +
         (pool_.num_threads() == 1 ? " thread" : " threads");
}

Result<std::unique_ptr<Memory>> CpuDevice::allocate(size_t bytes, const std::string& purpose) {
  if (bytes == 0) return std::unique_ptr<Memory>(std::make_unique<HostMemory>(nullptr, 0));
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) {
    return Error{ErrorCode::exhausted, "allocating " + std::to_string(bytes) + " bytes for " +
                                           purpose + ": " + std::strerror(errno)};
  }
  (void)::madvise(data, bytes, MADV_HUGEPAGE);  // a hint: small pages work too
  return std::unique_ptr<Memory>(
      std::make_unique<HostMemory>(static_cast<std::byte*>(data), bytes));
}

void CpuDevice::upload(std::byte* destination, std::span<const std::byte> host) {
  if (!host.empty()) std::memcpy(destination, host.data(), host.size());
}

void CpuDevice::download(std::span<std::byte> host, const std::byte* source) {
  if (!host.empty()) std::memcpy(host.data(), source, host.size());
}

void CpuDevice::copy(std::byte* destination, const std::byte* source, size_t bytes) {
  std::memmove(destination, source, bytes);
}

cpu::MoeShape CpuDevice::routed_shape(const WorkspaceSpec& spec) const {
  return {.max_rows = spec.max_rows,
          .num_experts = spec.num_experts,
          .slots_per_row = spec.num_experts_per_tok,
          .hidden = spec.hidden_size,
          .intermediate = spec.moe_intermediate_size,
          .threads = pool_.num_threads()};
}

cpu::MoeShape CpuDevice::shared_shape(const WorkspaceSpec& spec) const {
  return {.max_rows = spec.max_rows,
          .num_experts = 1,
          .slots_per_row = 1,
          .hidden = spec.hidden_size,
          .intermediate = spec.shared_intermediate_size,
          .threads = pool_.num_threads()};
}

CpuDevice::Sizes CpuDevice::sizes_for(const WorkspaceSpec& spec) const {
  Workspace ignored;
  Sizes sizes{layout_workspace(spec, nullptr, &ignored), 0, 0};
  const size_t attention =
      cpu::attention_scratch_floats(spec.attention_heads, spec.attention_kv_heads, spec.head_dim);
  const size_t delta = cpu::delta_scratch_floats(spec.key_head_dim, spec.value_head_dim);
  size_t scratch = std::max(attention, delta) * sizeof(float);
  const int64_t widest = std::max({spec.hidden_size, spec.attention_heads * spec.head_dim,
                                   spec.value_heads * spec.value_head_dim,
                                   spec.moe_intermediate_size, spec.shared_intermediate_size});
  sizes.packed_rows =
      cpu::packed_rows_bytes(linear_kernels_, linear_arithmetic(), spec.max_rows, widest);
  for (const cpu::MoeShape& shape : {routed_shape(spec), shared_shape(spec)}) {
    scratch = std::max(
        {scratch, cpu::moe_gate_up_scratch_bytes(shape), cpu::moe_down_scratch_bytes(shape)});
    sizes.packed_rows = std::max(sizes.packed_rows, cpu::moe_packed_slots_bytes(shape));
  }
  sizes.worker_scratch = (scratch + 63) / 64 * 64;
  return sizes;
}

size_t CpuDevice::workspace_bytes(const WorkspaceSpec& spec) const {
  const Sizes sizes = sizes_for(spec);
  const auto workers = static_cast<size_t>(pool_.num_threads());
  return sizes.workspace + workers * sizes.worker_scratch + sizes.packed_rows +
         HostSampler::bytes(spec.vocab_size, pool_.num_threads());
}

Result<void> CpuDevice::set_workspace(const WorkspaceSpec& spec) {
  spec_ = spec;
  const Sizes sizes = sizes_for(spec);
  workspace_memory_ = AlignedBytes(sizes.workspace);
  layout_workspace(spec, workspace_memory_.data(), &workspace_);
  worker_scratch_bytes_ = sizes.worker_scratch;
  scratch_ = AlignedBytes(sizes.worker_scratch * static_cast<size_t>(pool_.num_threads()));
  packed_rows_ = AlignedBytes(sizes.packed_rows);
  routed_plan_ = cpu::MoePlan(routed_shape(spec));
  shared_plan_ = cpu::MoePlan(shared_shape(spec));
  sampler_ = std::make_unique<HostSampler>(spec.vocab_size, pool_.num_threads());
  const auto rows = static_cast<size_t>(spec.max_rows);
  item_ends_.reserve(rows);
  saves_.reserve(rows);
  rope_frequencies_.resize(static_cast<size_t>(spec.rotary_dim / 2));
  rope_table_.resize(rows * static_cast<size_t>(spec.rotary_dim));
  cpu::rope_inverse_frequencies(spec.rope_theta, spec.rotary_dim, rope_frequencies_.data());
  return {};
}

template <typename Body>
void CpuDevice::for_rows(int64_t rows, const Body& body) {
  const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
  pool_.parallel_for(tasks, [&](int64_t task, int) {
    const int64_t first = task * kRowsPerTask;
    body(first, std::min(rows, first + kRowsPerTask));
  });
}

void CpuDevice::search_row(std::span<const float> row, const formats::ScaleSearch& search,
                           uint8_t* block_scales) const {
  if (search.method == formats::ScaleMethod::four_over_six) {
    Device::search_row(row, search, block_scales);
    return;
  }
  const float tensor_scale =
      formats::tensor_scale_for(search.method, search.amax, search.rules.division);
  const auto units = formats::nvfp4_scale_units(tensor_scale);
  const bool weighted = search.method == formats::ScaleMethod::hessian;
  kernels_.scale_search.best_scales({row.data(), static_cast<int64_t>(row.size() / 16),
                                     units.data(), weighted ? search.moments : nullptr,
                                     block_scales});
}

void CpuDevice::add_tile_products(const float* a, const float* b, int64_t count,
                                  float* sums) const {
  kernels_.feedback.add_tile_products({a, b, count, sums});
}

formats::RoundedBlock CpuDevice::round_block(const formats::BlockTarget& target) const {
  formats::RoundedBlock out;
  kernels_.feedback.round_block({target.centers, target.triangle, target.units,
                                 target.inverse_units, out.values, &out.loss, &out.chosen});
  return out;
}

void CpuDevice::embed(const StepPlan& plan, ConstTensorView table, TensorView hidden) {
  const bool overridden = plan.override_index != nullptr;
  const cpu::EmbedArgs args{
      .table = table.data(),
      .table_type = element_of(table.dtype()),
      .token_ids = plan.token_ids,
      .override_index = plan.override_index,
      .overrides = plan.row_overrides.data(),
      .override_type = overridden ? element_of(plan.row_overrides.dtype()) : cpu::Element::f32,
      .out = hidden.as<float>(),
      .n = hidden.row_elements()};
  for_rows(plan.num_rows,
           [&](int64_t first, int64_t last) { kernels_.embed.embed(args, first, last); });
}

void CpuDevice::sample(const SamplePlan& plan, ConstTensorView logits, SampleResult* results) {
  sampler_->run(plan, logits, results, pool_);
}

void CpuDevice::rms_norm(ConstTensorView x, const float* weight, TensorView out) {
  const cpu::RmsNormArgs args{.x = x.as<float>(),
                              .weight = weight,
                              .out = out.data(),
                              .out_type = element_of(out.dtype()),
                              .n = x.row_elements(),
                              .eps = spec_.rms_norm_eps};
  for_rows(x.rows(),
           [&](int64_t first, int64_t last) { kernels_.norm.rms_norm(args, first, last); });
}

void CpuDevice::qk_norm_rope(const StepPlan& plan, const AttentionWeights& weights,
                             ConstTensorView q_gate, TensorView q, TensorView gate, TensorView k) {
  cpu::RopeTableArgs table{.positions = plan.positions,
                           .inverse_frequencies = rope_frequencies_.data(),
                           .table = rope_table_.data(),
                           .rotary_dim = spec_.rotary_dim,
                           .mrope_section = {}};
  std::copy(std::begin(spec_.mrope_section), std::end(spec_.mrope_section), table.mrope_section);
  const cpu::QkNormRopeArgs args{.q_gate = q_gate.as<float>(),
                                 .q = q.as<float>(),
                                 .gate = gate.as<float>(),
                                 .k = k.as<float>(),
                                 .q_norm = weights.q_norm,
                                 .k_norm = weights.k_norm,
                                 .table = rope_table_.data(),
                                 .num_heads = weights.num_heads,
                                 .num_kv_heads = weights.num_kv_heads,
                                 .head_dim = weights.head_dim,
                                 .rotary_dim = spec_.rotary_dim,
                                 .eps = spec_.rms_norm_eps};
  for_rows(q.rows(), [&](int64_t first, int64_t last) {
    cpu::rope_table(table, first, last);
    kernels_.rope.qk_norm_rope(args, first, last);
  });
}

void CpuDevice::sigmoid_gate(ConstTensorView x, ConstTensorView gate, TensorView out) {
  const cpu::SigmoidGateArgs args{.x = x.as<float>(),
                                  .gate = gate.as<float>(),
                                  .out = out.data(),
                                  .out_type = element_of(out.dtype()),
                                  .n = x.row_elements()};
  for_rows(x.rows(), [&](int64_t first, int64_t last) {
    kernels_.elementwise.sigmoid_gate(args, first, last);
  });
}

void CpuDevice::delta_gates(const DeltaNetWeights& weights, TensorView a_to_g,
                            TensorView b_to_beta) {
  const cpu::DeltaGatesArgs args{.a_to_g = a_to_g.as<float>(),
                                 .b_to_beta = b_to_beta.as<float>(),
                                 .a_log = weights.a_log,
                                 .dt_bias = weights.dt_bias,
                                 .heads = weights.num_value_heads};
  for_rows(a_to_g.rows(),
           [&](int64_t first, int64_t last) { kernels_.delta.delta_gates(args, first, last); });
}

void CpuDevice::gated_rms_norm(const DeltaNetWeights& weights, ConstTensorView core,
                               ConstTensorView z, TensorView out) {
  const cpu::GatedRmsNormArgs args{.core = core.as<float>(),
                                   .z = z.as<float>(),
                                   .weight = weights.norm,
                                   .out = out.data(),
                                   .out_type = element_of(out.dtype()),
                                   .heads = weights.num_value_heads,
                                   .head_dim = weights.value_head_dim,
                                   .eps = spec_.rms_norm_eps};
  for_rows(core.rows(),
           [&](int64_t first, int64_t last) { kernels_.norm.gated_rms_norm(args, first, last); });
}

void CpuDevice::moe_route(ConstTensorView logits, const int32_t* forced, TensorView experts,
                          TensorView expert_weights) {
  const cpu::MoeRouteArgs args{.logits = logits.as<float>(),
                               .forced = forced,
                               .experts = experts.as<int32_t>(),
                               .weights = expert_weights.as<float>(),
                               .num_experts = logits.row_elements(),
                               .num_chosen = experts.row_elements()};
  for_rows(logits.rows(),
           [&](int64_t first, int64_t last) { kernels_.route.moe_route(args, first, last); });
}

void CpuDevice::moe_add_shared(ConstTensorView routed, ConstTensorView shared,
                               TensorView gate_logit, TensorView out, Accumulate accumulate) {
  const cpu::AddSharedArgs args{.base = accumulate == Accumulate::add ? out.as<float>() : nullptr,
                                .routed = routed.as<float>(),
                                .shared = shared.as<float>(),
                                .gate_logit = gate_logit.as<float>(),
                                .out = out.as<float>(),
                                .n = out.row_elements()};
  for_rows(out.rows(), [&](int64_t first, int64_t last) {
    kernels_.elementwise.moe_add_shared(args, first, last);
  });
}

void CpuDevice::add(ConstTensorView x, TensorView out, Accumulate accumulate) {
  if (accumulate == Accumulate::replace) {
    copy(out.data(), x.data(), x.bytes());
    return;
  }
  const cpu::AddArgs args{
      .a = out.as<float>(), .b = x.as<float>(), .out = out.as<float>(), .n = out.row_elements()};
  for_rows(out.rows(),
           [&](int64_t first, int64_t last) { kernels_.elementwise.add(args, first, last); });
}

void CpuDevice::gather_rows(ConstTensorView x, const int32_t* rows, TensorView out) {
  const cpu::GatherRowsArgs args{.x = x.as<float>(),
                                 .rows = rows,
                                 .out = out.data(),
                                 .out_type = element_of(out.dtype()),
                                 .n = out.row_elements()};
  for_rows(out.rows(), [&](int64_t first, int64_t last) {
    kernels_.elementwise.gather_rows(args, first, last);
  });
}

}  // namespace nibble::device
