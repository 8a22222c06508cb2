// Small operations of the CUDA device on random data, model shapes and odd ones.
//
// Products against the double reference: |y - exact| <= (K + 8) * 2^-23 * sum |x w| (tensor cores
// may truncate where they add), times the tensor scale. What walks sequences against the CPU
// device, which has its own oracle: relative L2 of f32 sums in another order.
#include "base/rng.h"
#include "formats/bf16.h"
#include "kernels/reference/linear.h"
#include "kernels/reference/moe.h"
#include "tensor/tensor.h"
#include "tests/cuda/cuda_check.h"
#include "tests/support/decode_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace nibble::check {
namespace {

using device::Accumulate;
using device::Arithmetic;
using device::Device;
using formats::LinearWeight;
using formats::WeightFormat;

constexpr double kF32SumLimit =
    2e-5;  // relative L2, f32 sums in another order, exp and rsqrt of 2 ulp
constexpr double kBf16Limit = 4e-3;  // relative L2, one more rounding to BF16 (2^-9 each, uniform)

/// A matrix with bytes of its own.
struct OwnedWeight {
  std::vector<uint8_t> weight, scales;
  LinearWeight view;
};

float random_value(Rng& rng) {
  return static_cast<float>(2.0 * rng.unit() - 1.0);
}

OwnedWeight random_weight(WeightFormat format, int64_t n, int64_t k, Rng& rng) {
  OwnedWeight out;
  LinearWeight& v = out.view;
  v.format = format;
  v.out_features = n;
  v.in_features = k;
  const auto count = static_cast<size_t>(n * k);
  if (format == WeightFormat::bf16) {
    out.weight.resize(2 * count);
    auto* values = reinterpret_cast<uint16_t*>(out.weight.data());
    for (size_t i = 0; i < count; ++i) values[i] = formats::bf16_from_f32(random_value(rng));
    v.weight = {reinterpret_cast<std::byte*>(out.weight.data()), DType::bf16, Shape{n, k}};
    return out;
  }
  const bool fp8 = format == WeightFormat::fp8;
  out.weight.resize(fp8 ? count : count / 2);
  for (uint8_t& byte : out.weight) {
    byte = static_cast<uint8_t>(rng.bits());
    if (fp8 && (byte & 0x7F) == 0x7F) byte = 0x7E;
  }
  v.weight_scale_2 = 0.01f + 0.01f * static_cast<float>(rng.unit());
  if (fp8) {
    v.weight = {reinterpret_cast<std::byte*>(out.weight.data()), DType::f8_e4m3, Shape{n, k}};
    return out;
  }
  out.scales.resize(count / 16);
  for (uint8_t& byte : out.scales) byte = static_cast<uint8_t>(rng.below(0x7F));  // every magnitude
  v.weight = {reinterpret_cast<std::byte*>(out.weight.data()), DType::u8, Shape{n, k / 2}};
  v.weight_scale = {reinterpret_cast<std::byte*>(out.scales.data()), DType::f8_e4m3,
                    Shape{n, k / 16}};
  return out;
}

/// Device memory that lives as long as the object.
class Buffers {
 public:
  explicit Buffers(Device& device) : device_(device) {}
  std::byte* take(size_t bytes) {
    auto memory = device_.allocate(bytes, "check");
    NIBBLE_CHECK(memory.ok(), "memory", memory.ok() ? "" : memory.error().message);
    owned_.push_back(std::move(memory).value());
    return owned_.back()->data();
  }
  template <typename T>
  T* put(const std::vector<T>& values) {
    std::byte* at = take(values.size() * sizeof(T));
    device_.upload(at, std::as_bytes(std::span(values)));
    return reinterpret_cast<T*>(at);
  }
  TensorView tensor(DType dtype, Shape shape) {
    return {take(static_cast<size_t>(shape.elements()) * dtype_bytes(dtype)), dtype, shape};
  }
  /// Rounded to `dtype`.
  TensorView tensor(DType dtype, Shape shape, const std::vector<float>& values) {
    const TensorView out = tensor(dtype, shape);
    if (dtype == DType::f32) {
      device_.upload(out.data(), std::as_bytes(std::span(values)));
      return out;
    }
    std::vector<uint16_t> rounded;
    for (const float value : values) rounded.push_back(formats::bf16_from_f32(value));
    device_.upload(out.data(), std::as_bytes(std::span(rounded)));
    return out;
  }
  std::vector<float> get(ConstTensorView view) {
    std::vector<std::byte> host(view.bytes());
    device_.download(host, view.data());
    device_.synchronize();
    const auto count = static_cast<size_t>(view.shape().elements());
    std::vector<float> out(count);
    for (size_t i = 0; i < count; ++i) {
      if (view.dtype() == DType::bf16) {
        out[i] = formats::bf16_to_f32(reinterpret_cast<const uint16_t*>(host.data())[i]);
      } else if (view.dtype() == DType::i32) {
        out[i] = static_cast<float>(reinterpret_cast<const int32_t*>(host.data())[i]);
      } else {
        out[i] = reinterpret_cast<const float*>(host.data())[i];
      }
    }
    return out;
  }

 private:
  Device& device_;
  std::vector<std::unique_ptr<device::Memory>> owned_;
};

std::vector<float> random_values(int64_t count, float scale, Rng& rng) {
  std::vector<float> out(static_cast<size_t>(count));
  for (float& value : out) value = formats::round_to_bf16(scale * random_value(rng));
  return out;
}

double relative_l2(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    norm += double{b[i]} * b[i];
  }
  return std::sqrt(difference / norm);
}

void judge(golden::Report& report, const std::string& name, double found, double limit) {
  if (found <= limit) {
    report.pass(name, found, "limit " + std::to_string(limit));
  } else {
    report.fail(name, "found " + std::to_string(found) + ", limit " + std::to_string(limit), found);
  }
}

device::WorkspaceSpec spec_35b(int64_t rows) {
  device::WorkspaceSpec spec;
  spec.max_rows = rows;
  spec.hidden_size = 2048;
  spec.vocab_size = 4096;
  spec.attention_heads = 16, spec.attention_kv_heads = 2, spec.head_dim = 256, spec.rotary_dim = 64;
  spec.key_heads = 16, spec.value_heads = 32, spec.key_head_dim = 128, spec.value_head_dim = 128;
  spec.num_experts = 64, spec.num_experts_per_tok = 8;
  spec.moe_intermediate_size = 512, spec.shared_intermediate_size = 512;
  spec.rope_theta = 1e7;
  spec.mrope_section[0] = 11, spec.mrope_section[1] = 11, spec.mrope_section[2] = 10;
  return spec;
}

void set_workspace(Device& device, const device::WorkspaceSpec& spec) {
  const Result<void> set = device.set_workspace(spec);
  NIBBLE_CHECK(set.ok(), "workspace", set.ok() ? "" : set.error().message);
}

// ---------------------------------------------------------------- dense products

struct LinearCase {
  WeightFormat format;
  int64_t n, k;
};

void check_linear(Device& gpu, const LinearCase& c, int64_t m, golden::Report& report) {
  Rng rng(static_cast<uint64_t>(c.n * 131 + c.k * 7 + m));
  const OwnedWeight weight = random_weight(c.format, c.n, c.k, rng);
  const std::vector<float> x = random_values(m * c.k, 1.0f, rng);
  Buffers buffers(gpu);
  const device::PackedLinear packed =
      gpu.pack_linear(weight.view, buffers.take(gpu.packed_linear_bytes(c.format, c.n, c.k)));
  const TensorView input = buffers.tensor(gpu.activation_dtype(), {m, c.k}, x);
  const std::vector<float> before = random_values(m * c.n, 1.0f, rng);
  const TensorView out = buffers.tensor(DType::f32, {m, c.n}, before);
  gpu.linear(input, packed, out, Accumulate::add);
  const std::vector<float> got = buffers.get(out);
  const reference::Matrix matrix = reference::decode_matrix(weight.view, reference::Decoding::real);
  const std::vector<reference::Sum> wanted =
      reference::linear(std::vector<double>(x.begin(), x.end()), m, matrix);
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double bound = static_cast<double>(c.k + 8) * 0x1p-23 *
                         (wanted[i].magnitude + std::abs(double{before[i]}));
    const double error = std::abs(double{got[i]} - wanted[i].value - double{before[i]});
    worst = std::max(worst, std::isfinite(got[i]) ? error / bound : INFINITY);
  }
  const char* arithmetic = gpu.arithmetic() == Arithmetic::f32 ? "f32 " : "";
  judge(report,
        std::string("cuda.linear ") + arithmetic + formats::weight_format_name(c.format) + " " +
            std::to_string(c.n) + "x" + std::to_string(c.k) + " m=" + std::to_string(m),
        worst, 1.0);
}

// ---------------------------------------------------------------- experts

void check_moe(Device& gpu, Device& cpu, WeightFormat format, int64_t hidden, int64_t inner,
               int64_t rows, golden::Report& report) {
  constexpr int64_t kExperts = 64, kChosen = 8;
  Rng rng(static_cast<uint64_t>(hidden + inner * 3 + rows * 17));
  device::WorkspaceSpec spec = spec_35b(512);
  spec.hidden_size = hidden;
  spec.moe_intermediate_size = spec.shared_intermediate_size = inner;
  set_workspace(gpu, spec);
  set_workspace(cpu, spec);
  std::vector<OwnedWeight> gates, ups, downs;
  for (int64_t e = 0; e < kExperts; ++e) {
    gates.push_back(random_weight(format, inner, hidden, rng));
    ups.push_back(random_weight(format, inner, hidden, rng));
    downs.push_back(random_weight(format, hidden, inner, rng));
  }
  const std::vector<float> x = random_values(rows * hidden, 0.05f, rng);
  const std::vector<float> logits = random_values(rows * kExperts, 2.0f, rng);
  std::vector<std::vector<float>> results[2];
  for (int which = 0; which < 2; ++which) {
    Device& device = which == 0 ? gpu : cpu;
    Buffers buffers(device);
    const size_t up_stride = (device.packed_gate_up_bytes(format, inner, hidden) + 63) / 64 * 64;
    const size_t down_stride = (device.packed_linear_bytes(format, hidden, inner) + 63) / 64 * 64;
    std::byte* up_bank = buffers.take(up_stride * kExperts);
    std::byte* down_bank = buffers.take(down_stride * kExperts);
    std::vector<float> up_scales, down_scales;
    for (size_t e = 0; e < kExperts; ++e) {
      device.pack_gate_up(gates[e].view, ups[e].view, up_bank + e * up_stride);
      (void)device.pack_linear(downs[e].view, down_bank + e * down_stride);
      up_scales.push_back(gates[e].view.weight_scale_2);
      up_scales.push_back(ups[e].view.weight_scale_2);
      down_scales.push_back(downs[e].view.weight_scale_2);
    }
    const device::PackedExperts gate_up{
        format, kExperts, 2 * inner, hidden, up_bank, up_stride, buffers.put(up_scales)};
    const device::PackedExperts down{
        format, kExperts, hidden, inner, down_bank, down_stride, buffers.put(down_scales)};
    const DType act = device.activation_dtype();
    const TensorView input = buffers.tensor(act, {rows, hidden}, x);
    const TensorView router = buffers.tensor(DType::f32, {rows, kExperts}, logits);
    const TensorView experts = buffers.tensor(DType::i32, {rows, kChosen});
    const TensorView weights = buffers.tensor(DType::f32, {rows, kChosen});
    const TensorView slots = buffers.tensor(act, {rows * kChosen, inner});
    const TensorView out = buffers.tensor(DType::f32, {rows, hidden});
    device.moe_route(router, nullptr, experts, weights);
    device.moe_gate_up(input, gate_up, experts, slots);
    device.moe_down_combine(slots, down, experts, weights, out);
    results[which] = {buffers.get(experts), buffers.get(weights), buffers.get(slots),
                      buffers.get(out)};
  }
  const std::string name = std::string("cuda.moe ") + formats::weight_format_name(format) + " " +
                           std::to_string(hidden) + "x" + std::to_string(inner) +
                           " m=" + std::to_string(rows);
  judge(report, name + " experts", results[0][0] == results[1][0] ? 0 : 1, 0);
  judge(report, name + " weights", relative_l2(results[0][1], results[1][1]), 1e-6);
  const bool f32 = gpu.arithmetic() == Arithmetic::f32;
  judge(report, name + " slots", relative_l2(results[0][2], results[1][2]),
        f32 ? kF32SumLimit : kBf16Limit);
  judge(report, name + " out", relative_l2(results[0][3], results[1][3]),
        f32 ? kF32SumLimit : kBf16Limit);
}

// ---------------------------------------------------------------- sequences

/// A step on one device.
struct SequenceCase {
  std::string name;
  std::vector<device::SequenceStep> sequences;
  std::vector<device::StateSave> saves;
};

constexpr int32_t kPagesPerSequence = 10, kSlots = 12;

device::StepPlan plan_of(const SequenceCase& c, Buffers& buffers) {
  std::vector<int32_t> row_sequence, pages, positions;
  const auto sequences = static_cast<int32_t>(c.sequences.size());
  for (int32_t s = 0; s < sequences; ++s) {
    const device::SequenceStep& step = c.sequences[static_cast<size_t>(s)];
    for (int32_t i = 0; i < step.q_len; ++i) {
      row_sequence.push_back(s);
      for (int axis = 0; axis < 3; ++axis) {
        positions.push_back(step.kv_len - step.q_len + i + 5 * axis);
      }
    }
    for (int32_t p = 0; p < kPagesPerSequence; ++p) {
      pages.push_back((p * sequences + s) * 7 % (sequences * kPagesPerSequence));
    }
  }
  // The stride 7 must not share a factor with the number of pages, or pages would be shared.
  NIBBLE_CHECK(sequences * kPagesPerSequence % 7 != 0, "pages", sequences);
  device::StepPlan plan;
  plan.num_rows = static_cast<int32_t>(row_sequence.size());
  plan.num_sequences = sequences;
  plan.num_state_saves = static_cast<int32_t>(c.saves.size());
  plan.page_table_stride = kPagesPerSequence;
  plan.positions = buffers.put(positions);
  plan.row_sequence = buffers.put(row_sequence);
  plan.sequences = buffers.put(c.sequences);
  plan.page_table = buffers.put(pages);
  plan.state_saves = buffers.put(c.saves);
  return plan;
}

std::vector<float> norm_weights(int64_t count, Rng& rng) {
  return random_values(count, 0.2f, rng);
}

void check_attention(Device& gpu, Device& cpu, const SequenceCase& c, DType kv,
                     golden::Report& report) {
  constexpr int64_t kHeads = 16, kKvHeads = 2, kDim = 256;
  std::vector<std::vector<float>> results[2];
  for (int which = 0; which < 2; ++which) {
    Device& device = which == 0 ? gpu : cpu;
    Rng rng(99);
    Buffers buffers(device);
    const device::StepPlan plan = plan_of(c, buffers);
    const int64_t rows = plan.num_rows;
    device::AttentionWeights weights;
    weights.num_heads = kHeads, weights.num_kv_heads = kKvHeads, weights.head_dim = kDim;
    weights.q_norm = buffers.put(norm_weights(kDim, rng));
    weights.k_norm = buffers.put(norm_weights(kDim, rng));
    const auto tokens = static_cast<int64_t>(c.sequences.size()) * kPagesPerSequence * 64;
    const int64_t elements = tokens * kKvHeads * kDim;
    device::KvLayer cache;
    cache.dtype = kv;
    cache.k_scale = 0.03f, cache.v_scale = 0.02f;
    if (kv == DType::f8_e4m3) {
      std::vector<uint8_t> codes(static_cast<size_t>(elements));
      for (std::byte** side : {&cache.k, &cache.v}) {
        for (uint8_t& code : codes) code = static_cast<uint8_t>(rng.bits() & 0xBF);
        *side = reinterpret_cast<std::byte*>(buffers.put(codes));
      }
    } else {
      cache.k = buffers.tensor(kv, {elements}, random_values(elements, 1.0f, rng)).data();
      cache.v = buffers.tensor(kv, {elements}, random_values(elements, 1.0f, rng)).data();
    }
    const TensorView q_gate = buffers.tensor(DType::f32, {rows, 2 * kHeads * kDim},
                                             random_values(rows * 2 * kHeads * kDim, 1.0f, rng));
    const TensorView k = buffers.tensor(DType::f32, {rows, kKvHeads * kDim},
                                        random_values(rows * kKvHeads * kDim, 1.0f, rng));
    const TensorView v = buffers.tensor(DType::f32, {rows, kKvHeads * kDim},
                                        random_values(rows * kKvHeads * kDim, 1.0f, rng));
    const TensorView q = buffers.tensor(DType::f32, {rows, kHeads * kDim});
    const TensorView gate = buffers.tensor(DType::f32, {rows, kHeads * kDim});
    const TensorView core = buffers.tensor(DType::f32, {rows, kHeads * kDim});
    device.qk_norm_rope(plan, weights, q_gate, q, gate, k);
    device.kv_store(plan, weights, cache, k, v);
    device.attention(plan, weights, cache, q, core);
    results[which] = {buffers.get(q), buffers.get(k), buffers.get(gate), buffers.get(core)};
  }
  const std::string name = "cuda.attention " + c.name + " " + dtype_name(kv) + " ";
  judge(report, name + "q", relative_l2(results[0][0], results[1][0]), kF32SumLimit);
  judge(report, name + "k", relative_l2(results[0][1], results[1][1]), kF32SumLimit);
  judge(report, name + "gate", relative_l2(results[0][2], results[1][2]), 0);
  // exact: BF16 operands are allowed (q, P), and an FP8 code may round the other way after the
  // rotation.
  const bool f32 = gpu.arithmetic() == Arithmetic::f32;
  judge(report, name + "core", relative_l2(results[0][3], results[1][3]),
        f32 && kv == DType::f32 ? kF32SumLimit : kBf16Limit);
}

void check_delta(Device& gpu, Device& cpu, const SequenceCase& c, int64_t dim,
                 golden::Report& report) {
  constexpr int64_t kKeyHeads = 16, kValueHeads = 32, kKernel = 4;
  const int64_t channels = (2 * kKeyHeads + kValueHeads) * dim;
  const int64_t state_elements = kValueHeads * dim * dim;
  std::vector<std::vector<float>> results[2];
  for (int which = 0; which < 2; ++which) {
    Device& device = which == 0 ? gpu : cpu;
    Rng rng(7);
    Buffers buffers(device);
    const device::StepPlan plan = plan_of(c, buffers);
    const int64_t rows = plan.num_rows;
    device::DeltaNetWeights weights;
    weights.num_key_heads = kKeyHeads, weights.num_value_heads = kValueHeads;
    weights.key_head_dim = weights.value_head_dim = dim;
    weights.conv_kernel = kKernel;
    weights.conv = buffers.put(random_values(channels * kKernel, 0.5f, rng));
    weights.a_log = buffers.put(random_values(kValueHeads, 1.0f, rng));
    weights.dt_bias = buffers.put(random_values(kValueHeads, 1.0f, rng));
    weights.norm = buffers.put(norm_weights(dim, rng));
    const DType act = device.activation_dtype();
    const TensorView recurrent = buffers.tensor(DType::f32, {kSlots, state_elements},
                                                random_values(kSlots * state_elements, 0.1f, rng));
    const TensorView window =
        buffers.tensor(act, {kSlots, (kKernel - 1) * channels},
                       random_values(kSlots * (kKernel - 1) * channels, 1.0f, rng));
    device::StateLayer cache;
    cache.recurrent = recurrent.as<float>();
    cache.recurrent_stride = state_elements;
    cache.conv_window = window.data();
    cache.conv_columns = kKernel - 1;
    cache.conv_stride_bytes = (kKernel - 1) * channels * static_cast<int64_t>(dtype_bytes(act));
    cache.conv_dtype = act;
    const TensorView x =
        buffers.tensor(act, {rows, channels}, random_values(rows * channels, 1.0f, rng));
    const TensorView a = buffers.tensor(DType::f32, {rows, kValueHeads},
                                        random_values(rows * kValueHeads, 1.0f, rng));
    const TensorView b = buffers.tensor(DType::f32, {rows, kValueHeads},
                                        random_values(rows * kValueHeads, 1.0f, rng));
    const TensorView z = buffers.tensor(DType::f32, {rows, kValueHeads * dim},
                                        random_values(rows * kValueHeads * dim, 1.0f, rng));
    const TensorView qkv = buffers.tensor(DType::f32, {rows, channels});
    const TensorView core = buffers.tensor(DType::f32, {rows, kValueHeads * dim});
    const TensorView normed = buffers.tensor(act, {rows, kValueHeads * dim});
    device.short_conv(plan, weights, cache, x, qkv);
    device.delta_gates(weights, a, b);
    device.gated_delta(plan, weights, cache, qkv, a, b, core);
    device.gated_rms_norm(weights, core, z, normed);
    results[which] = {buffers.get(qkv),   buffers.get(a),      buffers.get(b),
                      buffers.get(core),  buffers.get(normed), buffers.get(recurrent),
                      buffers.get(window)};
  }
  const char* parts[] = {"conv", "g", "beta", "core", "normed", "state", "window"};
  for (size_t i = 0; i < std::size(parts); ++i) {
    const bool exact = gpu.arithmetic() == Arithmetic::exact;
    const double limit = i == 6 ? 0.0 : i == 4 && exact ? kBf16Limit : 2 * kF32SumLimit;
    judge(report, "cuda.delta " + c.name + " " + std::to_string(dim) + " " + parts[i],
          relative_l2(results[0][i], results[1][i]), limit);
  }
}

std::vector<SequenceCase> sequence_cases() {
  using device::SequenceKind;
  constexpr auto kPrefill = SequenceKind::prefill;
  constexpr auto kDecode = SequenceKind::decode;
  return {
      {"decode of 1", {{kDecode, 0, 1, 300, 2, 2}}, {}},
      {"decode of 4",
       {{kDecode, 0, 1, 1, device::kZeroState, 1},
        {kDecode, 1, 1, 64, 2, 3},
        {kDecode, 2, 1, 65, 4, 4},
        {kDecode, 3, 1, 640, 5, 5}},
       {{1, 64, 9}}},
      {"prefill of 3",
       {{kPrefill, 0, 130, 130, device::kZeroState, 1},
        {kPrefill, 130, 64, 192, 2, 2},
        {kPrefill, 194, 5, 69, 3, 4}},
       {{0, 64, 8}, {0, 128, 9}, {1, 192, 10}}},
      {"mixed",
       {{kDecode, 0, 1, 100, 1, 1}, {kPrefill, 1, 33, 97, 2, 3}, {kPrefill, 34, 200, 264, 5, 6}},
       {}},
  };
}

}  // namespace

void check_operations(golden::Report& report) {
  ThreadPool pool(4, {});
  for (const Arithmetic arithmetic : {Arithmetic::exact, Arithmetic::f32}) {
    const bool exact = arithmetic == Arithmetic::exact;
    const std::unique_ptr<Device> gpu = open_gpu(arithmetic), cpu = open_cpu(arithmetic, pool);
    if (exact) std::printf("%s\n", gpu->description().c_str());
    set_workspace(*gpu, spec_35b(512));
    set_workspace(*cpu, spec_35b(512));
    const std::vector<int64_t> row_counts =
        exact ? std::vector<int64_t>{1, 3, 8, 9, 17, 32, 33, 65} : std::vector<int64_t>{1, 5};
    for (const int64_t m : row_counts) {
      for (const LinearCase& c : std::initializer_list<LinearCase>{{WeightFormat::bf16, 512, 2048},
                                                                   {WeightFormat::bf16, 257, 4096},
                                                                   {WeightFormat::bf16, 331, 48},
                                                                   {WeightFormat::bf16, 1, 2048},
                                                                   {WeightFormat::fp8, 512, 2048},
                                                                   {WeightFormat::fp8, 331, 80},
                                                                   {WeightFormat::nvfp4, 512, 2048},
                                                                   {WeightFormat::nvfp4, 256, 512},
                                                                   {WeightFormat::nvfp4, 331, 80},
                                                                   {WeightFormat::nvfp4, 64, 48}}) {
        check_linear(*gpu, c, m, report);
      }
    }
    for (const int64_t rows : {1, 5, 40}) {
      check_moe(*gpu, *cpu, WeightFormat::nvfp4, 2048, 512, rows, report);
      if (rows == 40) continue;
      check_moe(*gpu, *cpu, WeightFormat::nvfp4, 256, 64, rows, report);
      check_moe(*gpu, *cpu, WeightFormat::nvfp4, 48, 80, rows, report);
      check_moe(*gpu, *cpu, WeightFormat::bf16, 256, 64, rows, report);
      check_moe(*gpu, *cpu, WeightFormat::fp8, 256, 64, rows, report);
    }
    if (exact) check_moe(*gpu, *cpu, WeightFormat::nvfp4, 2048, 512, 300, report);
    set_workspace(*gpu, spec_35b(512));
    set_workspace(*cpu, spec_35b(512));
    for (const SequenceCase& c : sequence_cases()) {
      for (const DType kv : {DType::f32, DType::bf16, DType::f8_e4m3}) {
        check_attention(*gpu, *cpu, c, kv, report);
      }
      check_delta(*gpu, *cpu, c, 128, report);
      check_delta(*gpu, *cpu, c, 24, report);
    }
  }
}

}  // namespace nibble::check
